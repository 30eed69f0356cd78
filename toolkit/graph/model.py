"""What the models of all tasks are as one TensorFlow module: tokenizer and encoder behind the signatures' functions."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf

from toolkit.encoder.adapters import AdaptedProducts, added_parameters
from toolkit.encoder.batching import batched
from toolkit.encoder.layout import Layout
from toolkit.encoder.packing import Chunk, Tokens, in_chunks, on_host, padded_index
from toolkit.encoder.parameters import Parameters
from toolkit.encoder.precision.float32 import Float32Products
from toolkit.encoder.precision.halves import halved
from toolkit.encoder.precision.mixed import MixedProducts
from toolkit.encoder.precision.packed import PackedProducts
from toolkit.graph.guard import guarded, with_embeddings
from toolkit.graph.spec import TaskSpec
from toolkit.signatures import Signature, Tensor
from toolkit.tokenizer import TokenizerSpec, build_tokenizer
from toolkit.tokenizer.graph import TokenizerGraph

__all__ = ["PACKED", "TEXT", "Outputs", "Part", "ServingModel", "TextModel", "joined"]

Outputs = dict[str, tf.Tensor]

Asked = Callable[[Chunk], tf.Tensor | None]
"""What gives the one token of each of a chunk's rows that answers are made of, int32 ``[rows]``; or ``None``, where it
is more than one."""


def _no_token(chunk: Chunk) -> None:
    return None


TEXT = tf.TensorSpec([None], tf.string)
PACKED = (tf.TensorSpec([None], tf.int32),) * 4
COUNTED = (*PACKED, PACKED[0])  # and a number for each row


class Part:
    """A function that signatures share, so that the artifact holds it once. It is none of ``tf.function`` to
    ``tf.saved_model.save``, which traces those that it finds on a module once more, with all that they call."""

    def __init__(self, function: Callable[..., Any], signature: Sequence[tf.TensorSpec], **attributes: bool) -> None:
        self._function = tf.function(
            function, input_signature=signature, autograph=False, experimental_attributes=attributes or None
        )

    def __call__(self, *given: tf.Tensor) -> Any:
        # What is called has no device of the caller's: a server would give it to all that has none of its own.
        with tf.device(None):
            return self._function(*given)

    def traced(self) -> Any:
        """Its concrete function."""
        return self._function.get_concrete_function()


class ServingModel(tf.Module):  # type: ignore[misc]  # tensorflow has no type information
    """A ``TaskSpec`` as TensorFlow functions, one for each signature (``signature_functions``).

    ``_staged``, of the default signature's inputs, is not served: it yields what ``check`` compares to name the first
    stage that diverges, and is in an artifact as ``stages``. The graph is laid out as ``layout`` says. Tokenizers and
    encoders that the models ``beside`` this one have as well are theirs.
    """

    stages: Any
    _staged: Part

    def __init__(self, spec: TaskSpec, layout: Layout = Layout(), beside: Sequence[ServingModel] = ()) -> None:
        super().__init__()
        self._task = spec
        self._layout = layout
        own = spec.tokenizer
        same = [model.tokenizer for model in beside if replace(model._task.tokenizer, file=own.file) == own]
        self.tokenizer: TokenizerGraph = same[0] if same else build_tokenizer(own, layout.tokenizer_engine)
        kin = [model._encoder for model in beside if model._task.encoder.tensors is spec.encoder.tensors]
        self._encoder: Parameters = kin[0] if kin else self._parameters()
        self._adapter = Parameters(added_parameters(spec.encoder)) if spec.encoder.adapter else None
        self._encoders: dict[str, Part] = {}

    def _parameters(self) -> Parameters:
        # by no name of their own, which would keep them alive beside the variables
        spec, plan = self._task.encoder, self._layout.plan
        if plan:
            return Parameters(plan.stored(spec.parameters(), spec.intermediate_size))
        return Parameters(halved(spec.parameters(), spec.intermediate_size))

    def tokenizers(self) -> list[tuple[TokenizerSpec, TokenizerGraph]]:
        """Every one, with the spec that it equals."""
        return [(self._task.tokenizer, self.tokenizer)]

    @abstractmethod
    def functions(self) -> Mapping[str, Callable[..., Outputs]]:
        """Of each signature's inputs, by its name."""

    def encoder_parameters(self) -> dict[str, tf.Tensor]:
        """The encoder's parameters by the names of its ``parameters``, if all products are in float32 `halved`."""
        return self._encoder.named(self._encoder.read())

    # what a choice of products is tried on, outside of a graph

    @abstractmethod
    def tried_tokens(self, rows: Sequence[str]) -> Tokens:
        """Lines of text, as the spec's ``check_rows`` gives them, to packed tokens of the default signature."""

    @abstractmethod
    def tried_answers(self) -> Callable[[tf.Tensor, Chunk], tf.Tensor]:
        """What makes float32 ``[answers, width]``, in the task's own measure, of a chunk's hidden states. Parameters
        are read here."""

    # parts of the graph

    def encoder(self) -> Callable[[Chunk], tf.Tensor]:
        """A function of a chunk to its hidden states, float32 ``[padded_total, hidden]``, or of what it is asked for.
        Parameters are read here.

        The encoder is in the graph once for each kind of chunk, whatever is made of its results: of one row, of a short
        one, and of any number, asked for all tokens or for one of each row. It is handed its parameters: a function
        that reads variables is stateful, and of such the loop over chunks runs one after the other.
        """
        own, added = self._encoder.read(), self._adapter.read() if self._adapter else {}
        values = [*own.values(), *added.values()]

        def encoded(chunk: Chunk) -> tf.Tensor:
            kind = "few" if chunk.few else "single" if chunk.mask.shape[0] == 1 else "several"
            kind = kind if chunk.asked is None else f"{kind}_asked"
            if kind not in self._encoders:
                specs = [*chunk.handed_specs(), *(tf.TensorSpec(value.shape, value.dtype) for value in values)]

                def hidden_states(*handed: tf.Tensor) -> tf.Tensor:
                    # the shapes of parameters again: the optimizer knows none of an argument
                    count = len(handed) - len(values)
                    read = [
                        tf.ensure_shape(value, spec.shape)
                        for value, spec in zip(handed[count:], specs[count:], strict=True)
                    ]
                    return self._hidden_states(
                        chunk.taken(*handed[:count]),
                        dict(zip(own, read[: len(own)], strict=True)),
                        dict(zip(added, read[len(own) :], strict=True)),
                    )

                hidden_states.__name__ += f"_of_{kind}"  # which the artifact's functions are told apart by
                self._encoders[kind] = Part(hidden_states, specs, _noinline=True)
            return self._encoders[kind](*chunk.handed(), *values)

        return encoded

    def _hidden_states(self, chunk: Chunk, own: dict[str, tf.Tensor], added: dict[str, tf.Tensor]) -> tf.Tensor:
        """What ``encoder`` gives for a chunk, with the values of its parameters and of its adapter's."""
        spec, plan, adapter = self._task.encoder, self._layout.plan, self._adapter
        params = self._encoder.named(own)
        products: Any
        if plan:
            products = MixedProducts(params, spec, plan, packed=self._layout.packed)
        else:
            products = (PackedProducts if chunk.few else Float32Products)(params, spec)
        if adapter:
            products = AdaptedProducts(products, spec, adapter.named(added))
        return spec.hidden_states(products, chunk, fused_norm=self._layout.fused_norm)

    def by_row(
        self,
        row_answers: Callable[[], Callable[[tf.Tensor, Chunk], tf.Tensor]],
        width: int,
        asked: Asked = _no_token,
        *,
        skipping: bool = False,
    ) -> Part:
        """A function of packed tokens to float32 ``[batch, width]``: what is made of each row's hidden states.

        ``row_answers`` makes, where it may read parameters, a function of hidden states ``[padded_total, hidden]`` and
        their chunk to ``[rows, width]``; where ``asked`` gives one token of each row, the hidden states are of these
        alone. With ``skipping`` the tokens say how many of each row are left out. Requests
        that come together are computed together, if the model batches.
        """

        return self._together(
            lambda *packed: self.rows(Tokens(*packed), row_answers, width, asked), width, counted=skipping
        )

    def rows(
        self,
        tokens: Tokens,
        row_answers: Callable[[], Callable[[tf.Tensor, Chunk], tf.Tensor]],
        width: int,
        asked: Asked = _no_token,
    ) -> tf.Tensor:
        """Packed tokens to float32 ``[batch, width]``, as ``by_row`` says."""
        answers = row_answers()

        def encoder() -> Callable[[Chunk], tf.Tensor]:
            encoded = self.encoder()

            def of_rows(chunk: Chunk) -> tf.Tensor:
                tokens = asked(chunk)
                chunk = chunk if tokens is None else chunk.asking(tokens)
                return answers(encoded(chunk), chunk)

            return of_rows

        return self._in_chunks(tokens, encoder, width, per_token=False)

    def _in_chunks(
        self, tokens: Tokens, encoder: Callable[[], Callable[[Chunk], tf.Tensor]], width: int, *, per_token: bool
    ) -> tf.Tensor:
        layout = self._layout
        with tf.device(None):
            return in_chunks(
                tokens,
                encoder,
                width,
                per_token=per_token,
                coarse=layout.coarse,
                few=layout.few,
                target=layout.target,
            )

    def on_host(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, whose operations are the CPU's where the target asks for that, but for those that are called
        as a `Part` is."""

        @functools.wraps(function)
        def placed(*given: Any) -> Any:
            with on_host(self._layout.target):
                return function(*given)

        return placed

    def by_token(self, token_answers: Callable[[], Callable[[tf.Tensor], tf.Tensor]], width: int) -> Part:
        """The same for each token: a function of packed tokens to float32 ``[total, width]``, made by what
        ``token_answers`` makes, a function of hidden states ``[padded_total, hidden]`` to ``[padded_total, width]``."""

        def each(*packed: tf.Tensor) -> tf.Tensor:
            answers, tokens = token_answers(), self.packed_tokens(packed)

            def encoder() -> Callable[[Chunk], tf.Tensor]:
                encoded = self.encoder()
                return lambda chunk: answers(encoded(chunk))

            return self._in_chunks(tokens, encoder, width, per_token=True)

        return self._together(each, width, counted=self._task.unattended, per_token=True)

    def packed_tokens(self, packed: Sequence[tf.Tensor]) -> Tokens:
        """Four tensors as tokens, or five where the fifth says how many in each row are looked at."""
        attended = packed[4] if self._task.unattended else None
        return Tokens(packed[0], packed[1], packed[2], packed[3], attended=attended)

    def _together(
        self, each: Callable[..., tf.Tensor], width: int | None, *, counted: bool, per_token: bool = False
    ) -> Part:
        """``each`` for requests that come together, if the model batches; a ``width`` of ``None`` is what an answer
        needs."""
        packed, batching = COUNTED if counted else PACKED, self._layout.batching
        if batching is None:
            return Part(each, packed)
        # Called from two places: not inlined, so that a server optimizes and keeps it once.
        alone = Part(each, packed, _noinline=True)
        return Part(
            batched(alone, alone, width, batching, counted=counted, per_token=per_token, target=self._layout.target),
            packed,
        )

    def padded(self, splits: tf.Tensor, *columns: tuple[tf.Tensor, Any]) -> tuple[tf.Tensor, ...]:
        """Padded views ``[batch, length, ...]`` of (packed values, padding value) pairs, and the int32 mask."""
        length = tf.reduce_max(tf.concat([splits[1:] - splits[:-1], [0]], 0))
        index, mask = padded_index(splits, length)
        views = []
        for values, padding in columns:
            # one more row, so that index 0 exists when there are no tokens at all
            values = tf.pad(values, [[0, 1]] + [[0, 0]] * (values.shape.rank - 1))
            shown = tf.reshape(mask, tf.concat([tf.shape(mask), [1] * (values.shape.rank - 1)], 0))
            views.append(tf.where(shown, tf.gather(values, index), tf.constant(padding, values.dtype)))
        return (*views, tf.cast(mask, tf.int32))

    def tokens_of(self, ids: tf.Tensor, type_ids: tf.Tensor, splits: tf.Tensor) -> Tokens:
        """Rows of a text's own token ids as the encoder takes them, once each id is known to have an embedding."""
        ids = with_embeddings(ids, self._task.tokenizer, self._task.encoder.vocab_size)
        columns = tf.range(tf.size(ids)) - tf.repeat(splits[:-1], splits[1:] - splits[:-1])
        return Tokens(ids, type_ids, self._task.encoder.positions(ids, columns, splits), splits)

    def signature_functions(self) -> dict[str, Any]:
        """Concrete functions by signature name, with the input names and dtypes of ``signatures``; from then on
        ``stages`` is one too."""
        functions = self.functions()
        self.stages = self._staged.traced()
        return {
            item.name: tf.function(
                self.on_host(guarded(functions[item.name], item.inputs)), autograph=False
            ).get_concrete_function(*(_tensor_spec(tensor) for tensor in item.inputs))
            for item in self.signatures
        }

    @property
    def signatures(self) -> tuple[Signature, ...]:
        """Those of its spec."""
        return self._task.signatures


class TextModel(ServingModel):
    """A model of one text a row. Its tokenizer and its hidden states are shared by the signatures, so that the artifact
    holds each part of the graph once."""

    def __init__(self, spec: TaskSpec, layout: Layout = Layout(), beside: Sequence[ServingModel] = ()) -> None:
        super().__init__(spec, layout, beside)
        self._tokenize = Part(self.on_host(self._tokenize_text), [TEXT])
        self._hidden = Part(self._hidden_tokens, COUNTED if spec.unattended else PACKED)

    def _tokenize_text(self, text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Strings, prompts before them, to packed ids, row splits and token counts before truncation, all int32."""
        packed = self.tokenizer(text)
        return packed.ids, tf.cast(packed.row_splits, tf.int32), packed.num_tokens

    def _hidden_tokens(self, *packed: tf.Tensor) -> tf.Tensor:
        width = self._task.encoder.hidden_size
        return self._in_chunks(self.packed_tokens(packed), self.encoder, width, per_token=True)

    def text_tokens(self, text: tf.Tensor) -> tuple[Tokens, tf.Tensor]:
        """Strings, prompts before them, to packed tokens, and the int32 number of each text's tokens before
        truncation."""
        ids, splits, num_tokens = self._tokenize(text)
        return self.tokens_of(ids, tf.zeros_like(ids), splits), num_tokens

    def _tokenize_signature(self, text: tf.Tensor) -> Outputs:
        """Strings, the default prompt not yet before them, to padded token ids, their mask and types of 0."""
        ids, splits, _ = self._tokenize(joined(self._task.prompt, text))
        input_ids, mask = self.padded(splits, (ids, self.tokenizer.pad_id))
        return {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": tf.zeros_like(input_ids)}


def joined(prompt: str, text: tf.Tensor) -> tf.Tensor:
    """``prompt`` before each text."""
    return tf.strings.join([prompt, text]) if prompt else text


def _tensor_spec(tensor: Tensor) -> tf.TensorSpec:
    return tf.TensorSpec([None] * len(tensor.shape), tf.as_dtype(tensor.dtype), tensor.name)
