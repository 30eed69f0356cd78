"""A model of sentence-transformers as a Keras 3 model with trainable weights, to be built into other TensorFlow models.

After ``import toolkit.graph.keras_door`` ``keras.models.load_model`` reads what ``model.save("x.keras")`` wrote: the
layers are those of :mod:`toolkit.graph.keras_layers`. The way back is :mod:`toolkit.graph.keras_back`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import keras
import numpy as np

from toolkit.encoder.families import MODEL_TYPES
from toolkit.encoder.family import EncoderSpec
from toolkit.encoder.places import Places
from toolkit.encoder.static import STATIC
from toolkit.errors import InputError, UnsupportedError
from toolkit.graph.keras_layers import (
    UNUSED,
    WORDS,
    Activation,
    Answer,
    Encoder,
    Head,
    Occurrence,
    Pooling,
    Truncate,
    Vectors,
    numbers_of,
)
from toolkit.graph.keras_tokens import THERE, TOKENS, Tokenize, TokenizeExpanded, TokenizePairs, pairs_config
from toolkit.graph.spec import TaskSpec
from toolkit.graph.tasks import read_spec
from toolkit.graph.tasks.embed import EmbedSpec
from toolkit.graph.tasks.multi_vector import MultiVectorSpec
from toolkit.graph.tasks.rerank import RerankSpec
from toolkit.graph.tasks.sparse import SparseSpec
from toolkit.heads.head import SENTENCE, HeadSpec, RowHead, head_parameters, own_parameters, stage_names
from toolkit.heads.head import TOKENS as TOKEN_EMBEDDINGS
from toolkit.heads.pooling import PoolingSpec
from toolkit.signatures import Views
from toolkit.source.checkpoint import Checkpoint, open_checkpoint
from toolkit.source.loaded import first_of
from toolkit.source.router import ROUTER
from toolkit.source.settings import SourceSettings
from toolkit.source.skeleton import skeleton
from toolkit.source.tasks import TASKS
from toolkit.source.traced import unused_state
from toolkit.tokenizer.chat import ChatPairs
from toolkit.vectors_signatures import DOCUMENT, QUERY

if TYPE_CHECKING:
    from sentence_transformers.base.model import BaseModel

__all__ = ["to_keras", "tokenizing"]

Tensors = Mapping[str, Any]


def _head(head: HeadSpec, name: str, place: int, params: Mapping[str, np.ndarray[Any, Any]]) -> Head:
    own = own_parameters(params, name)
    shapes = {key: value.shape for key, value in own.items()}
    layer = Head(type(head).__name__, numbers_of(head), shapes, place, name=f"head_{name}")
    layer.load(own)
    return layer


@dataclass(frozen=True)
class _Behind:
    """What stands behind the encoder: ``head`` is that of the encoder's own module, ``words`` whether its table
    of words is asked for, and ``build`` makes the answer of what the encoder yields (token embeddings, and the table
    where it is asked for) and of the tokens by name."""

    build: Callable[[Tensors, Tensors], Any]
    head: RowHead | None = None
    words: bool = False


def _embed(spec: EmbedSpec, prompted: bool) -> _Behind:
    params = head_parameters(spec.modules)
    skipped = spec.texts[0].prompt.skipped if prompted else 0  # tokens that a caller chose have no prompt
    first = 0 if spec.encoder.family == STATIC else 1  # a StaticEmbedding pools by itself, without a module

    def build(features: Tensors, tokens: Tensors) -> Any:
        for place, (name, module) in enumerate(zip(stage_names(spec.modules), spec.modules, strict=True), first):
            if isinstance(module, PoolingSpec):
                layer = Pooling(list(module.modes), module.dim, skipped, name="pooling")
                features = {SENTENCE: layer(features[TOKEN_EMBEDDINGS], tokens["attention_mask"])}
            else:
                features = {**features, module.writes: _head(module, name, place, params)(features[module.reads])}
        x = features[SENTENCE]
        return x if spec.truncate_dim is None else Truncate(spec.dim, name="truncate")(x)

    return _Behind(build)


def _rerank(spec: RerankSpec, prompted: bool) -> _Behind:
    def build(features: Tensors, tokens: Tensors) -> Any:
        logits = _answer(spec.head, spec.dim, features, tokens)
        return Activation(spec.activation, name="activation")(logits)

    return _Behind(build, spec.head, _lacks_words(spec.head))


def _sparse(spec: SparseSpec, prompted: bool) -> _Behind:
    head = spec.splade
    if head is None:
        occurrence = Occurrence(name="occurrence")
        return _Behind(lambda features, tokens: occurrence(features[WORDS], *_shown(tokens)), words=True)
    return _Behind(lambda features, tokens: _answer(head, spec.dim, features, tokens), head, _lacks_words(head))


def _many_vectors(spec: MultiVectorSpec, checkpoint: Checkpoint) -> keras.Model:
    """Of queries and documents, which go through the same encoder and modules, but become tokens in their own ways."""
    roles = {role.name: role for role in spec.roles}
    prompts = {item.role: item.prompt.text for item in spec.texts}
    places = [place for place, module in enumerate(checkpoint.modules) if module.type in ("Dense", "Normalize")]
    params, names = head_parameters(spec.heads), stage_names(spec.heads)
    encoder = _encoder(spec.encoder, checkpoint, _Behind(lambda features, tokens: None))
    parts = zip(spec.heads, names, places, strict=True)
    heads = [_head(head, name, place, params) for head, name, place in parts]
    entry, found = {}, {}
    for name in (QUERY, DOCUMENT):
        role = roles[name]
        if role.merges:
            raise UnsupportedError(
                checkpoint.source, "pool_factor", "above 1", "1: clusters are nothing that is trained"
            )
        entry[name] = keras.Input(shape=(), dtype="string", name=name)
        raw = asdict(replace(checkpoint.tokenizer, max_length=role.max_length))
        own: Any = {"prompt": prompts[name], "vocab_size": spec.encoder.vocab_size, "name": f"tokenize_{name}"}
        more = role.expansion
        tokens = (Tokenize(raw, **own) if more is None else TokenizeExpanded(raw, *astuple(more), **own))(entry[name])
        there = tokens[THERE] if more is not None else tokens["attention_mask"]
        seen = there if more is not None and not more.attended else None
        x = encoder(*(tokens[item] for item in TOKENS), seen)
        for head in heads:
            x = head(x)
        normalized = role.pooling is not None and role.pooling.normalized
        last = Vectors(role.skipped, role.kept, normalized, name=f"vectors_{name}")
        found[name], found[f"{name}_mask"] = last(x, tokens["input_ids"], there)
    return keras.Model(entry, found, name=_snake(TASKS[spec.task].model_class))


_BEHIND: Mapping[str, Callable[[Any, bool], _Behind]] = {"embed": _embed, "rerank": _rerank, "sparse": _sparse}
"""What stands behind the encoder, by task, of its spec, and of whether prompts stand before texts."""


def _lacks_words(head: RowHead) -> bool:
    """Whether its table of words is the encoder's."""
    return "words" in head.stored and "words" not in head.weights


def _shown(tokens: Tensors) -> tuple[Any, Any]:
    return tokens["input_ids"], tokens["attention_mask"]


def _answer(head: RowHead, answers: int, features: Tensors, tokens: Tensors) -> Any:
    shapes = {name: value.shape for name, value in head.weights.items()}
    kind, numbers = type(head).__name__, numbers_of(head)
    layer = Answer(kind, numbers, shapes, head.stored, answers, name=kind.removesuffix("Spec").lower())
    layer.load(head.weights)
    return layer(features[TOKEN_EMBEDDINGS], *_shown(tokens), features.get(WORDS))


def _encoder(spec: EncoderSpec, checkpoint: Checkpoint, behind: _Behind) -> Encoder:
    module, head = checkpoint.modules[0], behind.head
    prefix = f"{module.config['base_model_prefix']}." if head is not None else ""
    shapes = {name: tensor.shape for name, tensor in spec.tensors.items()}
    used = [spec.tensors[name] for name in Places(spec, shapes).names]
    others = {f"{prefix}{name}": tensor for name, tensor in spec.tensors.items()}
    if head is not None:
        used += [module.tensors[name] for name in head.stored.values()]
        others |= {name: tensor for name, tensor in module.tensors.items() if not name.startswith(prefix)}
    if module.type == "Transformer":
        stored = unused_state(first_of(checkpoint.reference).auto_model)
        others |= {name: np.asarray(tensor.detach()) for name, tensor in stored.items()}
    unused = {
        f"{UNUSED}{name}": tensor
        for name, tensor in others.items()
        # a table may have two names
        if tensor.dtype.kind == "f" and not any(np.shares_memory(tensor, other) for other in used)
    }
    values = {**spec.stored(), **unused}
    layer = Encoder(
        numbers_of(replace(spec, tensors={})),
        {name: value.shape for name, value in values.items()},
        {name: list(shape) for name, shape in shapes.items()},
        skeleton(checkpoint.reference),
        prefix,
        behind.words,
        name="encoder",
    )
    layer.load(values)
    return layer


def tokenizing(spec: TaskSpec, checkpoint: Checkpoint) -> Tokenize:
    """The layer from what the default signature takes to tokens, its prompt before them."""
    if not isinstance(spec, RerankSpec):
        raw = replace(checkpoint.tokenizer, max_length=spec.max_length)
        return Tokenize(asdict(raw), spec.prompt, spec.encoder.vocab_size, name="tokenize")
    own = checkpoint.tokenizer.without_special() if isinstance(spec.pairs, ChatPairs) else checkpoint.tokenizer
    raw, pairs = replace(own, max_length=spec.max_length), pairs_config(spec.pairs)
    return TokenizePairs(asdict(raw), pairs, prompt=spec.prompt, vocab_size=spec.encoder.vocab_size, name="tokenize")


def to_keras(
    source: str | Path | BaseModel,
    *,
    task: str | None = None,
    inputs: Literal["text", "tokens"] = "text",
    prompt_name: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> keras.Model:
    """A Keras model that equals ``source`` (a folder, hub id or live model of sentence-transformers), ready to be
    trained. ``task`` names what it is for where a plain folder leaves that open, as for ``export``.

    With ``inputs="text"`` it takes string ``[batch]``, a CrossEncoder's two of them, ``query`` and ``document``; with
    ``"tokens"`` a dict of int32 ``[batch, length]`` tensors input_ids, attention_mask and token_type_ids. The output is
    float32: embeddings ``[batch, dim]``; scores ``[batch]``, or ``[batch, labels]``; of a SparseEncoder all numbers of
    its vectors, ``[batch, vocabulary]``. A MultiVectorEncoder's model takes ``query`` and ``document`` too, and
    gives for each a vector for every token, ``[batch, length, dim]``, and where there are such, ``query_mask`` and
    ``document_mask``. Layers: ``tokenize``, ``encoder``, then those of the task. Before each text (or query) is the
    prompt of that name, else the default one.

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
        task=task,
        revision=revision,
        trust_remote_code=trust_remote_code,
        settings=SourceSettings(prompt_name=prompt_name),
        model_types=MODEL_TYPES,
    )
    many = checkpoint.task == MultiVectorSpec.task
    spec = read_spec(checkpoint, Views(prompts=(QUERY, DOCUMENT) if many else ()))
    if set(checkpoint.ways) - set(checkpoint.adapters):
        raise UnsupportedError(checkpoint.source, "module 0", ROUTER, "models with one way for all texts")
    if isinstance(spec, MultiVectorSpec):
        if inputs == "tokens" or prompt_name is not None:
            named = "inputs 'tokens'" if inputs == "tokens" else f"prompt_name {prompt_name!r}"
            raise InputError(f"{named}: a Keras model of many vectors takes texts, a query's and a document's prompt")
        return _many_vectors(spec, checkpoint)
    entry: Any
    if inputs == "tokens":
        entry = tokens = {name: keras.Input(shape=(None,), dtype="int32", name=name) for name in TOKENS}
    elif spec.task == "rerank":
        entry = {name: keras.Input(shape=(), dtype="string", name=name) for name in ("query", "document")}
        tokens = tokenizing(spec, checkpoint)(*entry.values())
    else:
        entry = keras.Input(shape=(), dtype="string", name="text")
        tokens = tokenizing(spec, checkpoint)(entry)
    behind = _BEHIND[spec.task](spec, inputs == "text")
    found = _encoder(spec.encoder, checkpoint, behind)(*(tokens[name] for name in TOKENS))
    features = dict(zip((TOKEN_EMBEDDINGS, WORDS), found, strict=True)) if behind.words else {TOKEN_EMBEDDINGS: found}
    return keras.Model(entry, behind.build(features, tokens), name=_snake(TASKS[spec.task].model_class))


def _snake(name: str) -> str:
    """``SparseEncoder`` as ``sparse_encoder``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
