"""A SentenceTransformer as a Keras 3 model with trainable weights, to be built into other TensorFlow models.

The layers are registered with Keras under ``sentence_serving``: after ``import toolkit.graph.keras_door``,
``keras.models.load_model`` reads what ``model.save("x.keras")`` wrote. They run the same graph code as the SavedModel.
The way back is :mod:`toolkit.graph.keras_back`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import keras
import numpy as np
import tensorflow as tf

from toolkit.encoder.families import ENCODERS, MODEL_TYPES
from toolkit.encoder.family import EncoderSpec, padded_positions
from toolkit.encoder.packing import make_chunk, pack, padded_index
from toolkit.encoder.places import Places
from toolkit.encoder.precision.float32 import Float32Products
from toolkit.encoder.static import STATIC
from toolkit.errors import InputError, UnsupportedError
from toolkit.graph.guard import with_embeddings
from toolkit.graph.tasks.embed import EmbedSpec
from toolkit.heads import HEADS
from toolkit.heads.head import SENTENCE, HeadSpec, head_parameters, own_parameters, stage_names
from toolkit.heads.head import TOKENS as TOKEN_EMBEDDINGS
from toolkit.heads.pooling import PoolingSpec, pool
from toolkit.signatures import Views
from toolkit.source.checkpoint import open_checkpoint
from toolkit.source.router import ROUTER
from toolkit.source.settings import SourceSettings
from toolkit.source.skeleton import skeleton
from toolkit.source.traced import unused_state
from toolkit.tokenizer import TokenizerSource, build_tokenizer, read_tokenizer

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["Encoder", "Head", "Pooling", "Tokenize", "Truncate", "to_keras"]

PACKAGE = "sentence_serving"
TOKENS = ("input_ids", "attention_mask", "token_type_ids")
UNUSED = "unused/"


@keras.saving.register_keras_serializable(PACKAGE)
class Tokenize(keras.layers.Layer):  # type: ignore[misc]
    """string ``[batch]`` to a dict of int32 ``[batch, length]``: input_ids, attention_mask, token_type_ids.

    The tokenizer travels inside the layer's configuration, so a saved model needs no other file.
    """

    def __init__(
        self, source: Mapping[str, Any], prompt: str = "", vocab_size: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**{"trainable": False, **kwargs})
        self.source = dict(source)
        self.prompt = prompt
        self.vocab_size = vocab_size
        self._spec = read_tokenizer(TokenizerSource(**source))
        self._graph = build_tokenizer(self._spec)

    def call(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        if self.prompt:
            text = tf.strings.join([self.prompt, text])
        packed = self._graph(text)
        if self.vocab_size is not None:
            packed = packed._replace(ids=with_embeddings(packed.ids, self._spec, self.vocab_size))
        splits = tf.cast(packed.row_splits, tf.int32)
        length = tf.reduce_max(tf.concat([splits[1:] - splits[:-1], [0]], 0))
        index, mask = padded_index(splits, length)
        ids = tf.where(mask, tf.gather(tf.pad(packed.ids, [[0, 1]]), index), self._graph.pad_id)
        return dict(zip(TOKENS, (ids, tf.cast(mask, tf.int32), tf.zeros_like(ids)), strict=True))

    def compute_output_spec(self, text: Any) -> dict[str, keras.KerasTensor]:
        return {name: keras.KerasTensor((text.shape[0], None), "int32", name=name) for name in TOKENS}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "source": self.source, "prompt": self.prompt, "vocab_size": self.vocab_size}


class _Parameters(keras.layers.Layer):  # type: ignore[misc]
    """A layer whose weights have names (``layer_0/qkv/kernel``); those that begin with one of ``fixed`` stay."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], fixed: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Keras does not take slashes in a variable's name.
        self.params = {
            name: self.add_weight(
                name=name.replace("/", "."), shape=shape, initializer="zeros", trainable=not name.startswith(fixed)
            )
            for name, shape in shapes.items()
        }
        self.built = True

    def load(self, values: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Assign a value to each weight."""
        for name, variable in self.params.items():
            variable.assign(values[name])

    def tensors(self) -> dict[str, tf.Tensor]:
        return {name: tf.convert_to_tensor(variable) for name, variable in self.params.items()}


# under the name that it had when BERT was the only family: what was saved then is still read
@keras.saving.register_keras_serializable(PACKAGE, name="BertEncoder")
class Encoder(_Parameters):
    """The three token tensors to token embeddings, float32 ``[batch, length, hidden]``; zeros at padding.

    In training, dropout acts at the rates of the checkpoint's configuration. Weights are what the checkpoint stores,
    those of its tensors that no hidden state depends on (``unused/...``) among them, which stay as they are.
    ``skeleton`` is the checkpoint without its weights, and ``tensors`` are the names and shapes of its encoder's: what
    a trained model goes back to. A model that was saved without them is read, and does not go back.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        shapes: Mapping[str, Any],
        tensors: Mapping[str, Any] | None = None,
        skeleton: str | None = None,
        **kwargs: Any,
    ) -> None:
        family = ENCODERS[spec["family"]]
        super().__init__(
            {name: tuple(shape) for name, shape in shapes.items()}, fixed=(*family.fixed, UNUSED), **kwargs
        )
        # JSON has no tuples
        numbers: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in spec.items()
        }
        self.spec: EncoderSpec = family(**numbers)
        self.shapes = {name: list(shape) for name, shape in shapes.items()}
        self.stored_shapes = None if tensors is None else {name: tuple(shape) for name, shape in tensors.items()}
        self.skeleton = skeleton
        self.seed = keras.random.SeedGenerator()

    def call(
        self, input_ids: tf.Tensor, attention_mask: tf.Tensor, token_type_ids: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        def dropout(x: tf.Tensor, rate: float) -> tf.Tensor:
            return keras.random.dropout(x, rate, seed=self.seed) if training and rate else x

        positions = padded_positions(self.spec, input_ids)
        chunk = make_chunk(pack(input_ids, attention_mask, token_type_ids, positions))
        params = {name: tensor for name, tensor in self.tensors().items() if not name.startswith(UNUSED)}
        # a model that was saved without a skeleton has the graph's parameters as its weights
        params = params if self.skeleton is None else self.spec.derived(params)
        hidden = self.spec.hidden_states(Float32Products(params, self.spec, dropout), chunk)
        place = tf.where(tf.not_equal(attention_mask, 0))
        shape = tf.concat([tf.shape(input_ids, tf.int64), [self.spec.hidden_size]], 0)
        return tf.scatter_nd(place, hidden[: chunk.total], shape)

    def compute_output_spec(self, input_ids: Any, *args: Any, **kwargs: Any) -> keras.KerasTensor:
        return keras.KerasTensor((*input_ids.shape, self.spec.hidden_size), "float32")

    def get_config(self) -> dict[str, Any]:
        own = {"tensors": self.stored_shapes, "skeleton": self.skeleton}
        return {**super().get_config(), "spec": _numbers(self.spec), "shapes": self.shapes, **own}


@keras.saving.register_keras_serializable(PACKAGE)
class Pooling(keras.layers.Layer):  # type: ignore[misc]
    """Token embeddings ``[batch, length, hidden]`` and attention_mask to ``[batch, dim]``; only tokens count, and not
    the first ``skipped`` of a row, which are its prompt's."""

    def __init__(self, modes: list[str], dim: int, skipped: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = PoolingSpec(tuple(modes), dim, include_prompt=not skipped)
        self.skipped = skipped

    def call(self, token_embeddings: tf.Tensor, attention_mask: tf.Tensor) -> tf.Tensor:
        tokens = pack(attention_mask, attention_mask, attention_mask)
        chunk = make_chunk(tokens.with_skipped(self.skipped) if self.skipped else tokens)
        hidden = tf.boolean_mask(token_embeddings, tf.not_equal(attention_mask, 0))
        fill = tf.size(chunk.slot) - chunk.total
        return tf.ensure_shape(pool(self.spec, tf.pad(hidden, [[0, fill], [0, 0]]), chunk), [None, self.spec.dim])

    def compute_output_spec(self, token_embeddings: Any, attention_mask: Any) -> keras.KerasTensor:
        return keras.KerasTensor((token_embeddings.shape[0], self.spec.dim), "float32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "modes": list(self.spec.modes), "dim": self.spec.dim, "skipped": self.skipped}


_HEADS: dict[str, type[HeadSpec]] = {head.__name__: head for head in HEADS.values()}


@keras.saving.register_keras_serializable(PACKAGE)
class Head(_Parameters):
    """A module behind the encoder (Dense, LayerNorm, Normalize): float32 ``[..., in]`` to ``[..., out]``.

    ``place`` is the module's number, the encoder's being 0.
    """

    def __init__(
        self, kind: str, spec: Mapping[str, Any], shapes: Mapping[str, Any], place: int = 0, **kwargs: Any
    ) -> None:
        super().__init__({name: tuple(shape) for name, shape in shapes.items()}, **kwargs)
        self.kind = kind
        self.place = place
        self.numbers = dict(spec)
        self.shapes = {name: list(shape) for name, shape in shapes.items()}
        empty = np.zeros([0], np.float32)
        # The weights live in this layer; of the spec's own, only whether they exist is looked at.
        arrays: dict[str, Any] = {
            "weight": empty,
            "bias": empty,
            "residual_weight": empty if "residual" in self.shapes else None,
        }
        known = {field.name for field in fields(_HEADS[kind])}
        self.spec = _HEADS[kind](**{**self.numbers, **{key: value for key, value in arrays.items() if key in known}})

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.spec.apply(self.tensors(), x)

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        return keras.KerasTensor((*x.shape[:-1], self.numbers.get("out_features", x.shape[-1])), "float32")

    def get_config(self) -> dict[str, Any]:
        own = {"kind": self.kind, "spec": self.numbers, "shapes": self.shapes, "place": self.place}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(PACKAGE)
class Truncate(keras.layers.Layer):  # type: ignore[misc]
    """The first ``dim`` components of an embedding (Matryoshka models)."""

    def __init__(self, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim = dim

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x[:, : self.dim]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dim": self.dim}


def _numbers(spec: Any) -> dict[str, Any]:
    """A spec's fields without its arrays: what a Keras configuration can hold."""
    return {
        field.name: list(value) if isinstance(value, tuple | list) else value
        for field in fields(spec)
        if isinstance(value := getattr(spec, field.name), bool | int | float | str | tuple | list | None)
    }


def _head(head: HeadSpec, name: str, place: int, params: Mapping[str, np.ndarray[Any, Any]]) -> Head:
    own = own_parameters(params, name)
    shapes = {key: value.shape for key, value in own.items()}
    layer = Head(type(head).__name__, _numbers(head), shapes, place, name=f"head_{name}")
    layer.load(own)
    return layer


def _encoder(spec: EncoderSpec, original: SentenceTransformer) -> Encoder:
    shapes = {name: tensor.shape for name, tensor in spec.tensors.items()}
    used = [spec.tensors[name] for name in Places(spec, shapes).names]
    stored = unused_state(original[0].auto_model) if spec.family != STATIC else {}
    others = {name: np.asarray(tensor.detach()) for name, tensor in stored.items()}
    unused = {
        f"{UNUSED}{name}": tensor
        for name, tensor in {**spec.tensors, **others}.items()
        # a table may have two names
        if tensor.dtype.kind == "f" and not any(np.shares_memory(tensor, other) for other in used)
    }
    values = {**spec.stored(), **unused}
    layer = Encoder(
        _numbers(replace(spec, tensors={})),
        {name: value.shape for name, value in values.items()},
        {name: list(shape) for name, shape in shapes.items()},
        skeleton(original),
        name="encoder",
    )
    layer.load(values)
    return layer


def to_keras(
    source: str | Path | SentenceTransformer,
    *,
    inputs: Literal["text", "tokens"] = "text",
    prompt_name: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> keras.Model:
    """A Keras model that equals ``source`` (a folder, hub id or live ``SentenceTransformer``), ready to be trained.

    With ``inputs="text"`` it takes string ``[batch]``; with ``"tokens"`` a dict of int32 ``[batch, length]`` tensors
    input_ids, attention_mask and token_type_ids. The output is float32 ``[batch, dim]``. Layers: ``tokenize``,
    ``encoder``, ``pooling``, one for each further module. Before each text is the prompt of that name, else the default
    one.

    Raises ``SourceError``, ``UnsupportedError`` or ``InputError``.
    """
    if inputs not in ("text", "tokens"):
        raise InputError(f"inputs is {inputs!r}; expected 'text' or 'tokens'")
    if inputs == "tokens" and prompt_name is not None:
        raise InputError(
            "prompt_name goes with inputs 'text': tokens are what the caller makes of a text and its prompt"
        )
    checkpoint = open_checkpoint(
        source,
        task="embed",
        revision=revision,
        trust_remote_code=trust_remote_code,
        settings=SourceSettings(prompt_name=prompt_name),
        model_types=MODEL_TYPES,
    )
    spec = EmbedSpec.read(checkpoint, Views(prompts=()))
    if set(checkpoint.ways) - set(checkpoint.adapters):
        raise UnsupportedError(checkpoint.source, "module 0", ROUTER, "models with one way for all texts")
    if inputs == "text":
        entry = keras.Input(shape=(), dtype="string", name="text")
        raw = replace(checkpoint.tokenizer, max_length=spec.max_length)
        tokens = Tokenize(asdict(raw), spec.prompt, spec.encoder.vocab_size, name="tokenize")(entry)
    else:
        entry = tokens = {name: keras.Input(shape=(None,), dtype="int32", name=name) for name in TOKENS}
    encoder = _encoder(spec.encoder, checkpoint.reference)
    hidden = encoder(*(tokens[name] for name in TOKENS))
    params = head_parameters(spec.modules)
    skipped = spec.texts[0].prompt.skipped if inputs == "text" else 0  # tokens that a caller chose have no prompt
    features = {TOKEN_EMBEDDINGS: hidden}
    first = 0 if spec.encoder.family == STATIC else 1  # a StaticEmbedding pools by itself, without a module
    for place, (name, module) in enumerate(zip(stage_names(spec.modules), spec.modules, strict=True), first):
        if isinstance(module, PoolingSpec):
            layer = Pooling(list(module.modes), module.dim, skipped, name="pooling")
            features = {SENTENCE: layer(features[TOKEN_EMBEDDINGS], tokens["attention_mask"])}
        else:
            features[module.writes] = _head(module, name, place, params)(features[module.reads])
    x = features[SENTENCE]
    if spec.truncate_dim is not None:
        x = Truncate(spec.dim, name="truncate")(x)
    return keras.Model(entry, x, name="sentence_transformer")
