"""The whole model as one TensorFlow module: tokenizer, encoder and heads behind the functions of the signatures."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from toolkit.encoder.batching import batched
from toolkit.encoder.batching_options import Batching
from toolkit.encoder.family import padded_positions
from toolkit.encoder.packing import Chunk, Tokens, in_chunks, pack, padded_index
from toolkit.encoder.parameters import Parameters
from toolkit.encoder.precision.float32 import Float32Products
from toolkit.encoder.precision.mixed import MixedProducts, Plan
from toolkit.graph.guard import guarded, with_embeddings
from toolkit.graph.spec import ModelSpec
from toolkit.heads.head import head_parameters, own_parameters, stage_names
from toolkit.heads.normalize import NormalizeSpec
from toolkit.heads.pooling import pool
from toolkit.heads.quantized import quantized, starts_and_steps
from toolkit.signatures import SIGNATURES, Signature, Tensor, TextSignature
from toolkit.tokenizer import COMPILED, Engine, build_tokenizer

__all__ = ["ServingModel"]

Array = npt.NDArray[np.float32]
Outputs = dict[str, tf.Tensor]

TEXT = tf.TensorSpec([None], tf.string)
PACKED = (tf.TensorSpec([None], tf.int32),) * 4
SKIPPED = tf.TensorSpec([], tf.int32)
SKIPPING = (*PACKED, PACKED[0])  # where pooling leaves out a row's first tokens


class ServingModel(tf.Module):  # type: ignore[misc]  # tensorflow has no type information
    """A ``ModelSpec`` as TensorFlow functions, one for each signature (``signature_functions``).

    ``stages`` is not served: it yields the embedding after every module and lets ``check`` name the first that
    diverges. With ``batching``, requests for embeddings that arrive together are encoded together. With ``plan`` the
    encoder's products are computed as it says, else all in float32. ``fused_norm`` is for servers of 2.17 and later.
    ``ranges`` are the smallest and largest value of each number, ``[2, dim]``, by the names by which signatures that
    are quantized to 256 steps ask for them.
    """

    def __init__(
        self,
        spec: ModelSpec,
        batching: Batching | None = None,
        tokenizer_engine: Engine = COMPILED,
        plan: Plan | None = None,
        fused_norm: bool = True,
        ranges: Mapping[str, Array] | None = None,
    ) -> None:
        super().__init__()
        self._spec = spec
        self._plan = plan
        self._fused_norm = fused_norm
        self.tokenizer = build_tokenizer(spec.tokenizer, tokenizer_engine)
        # by no name of their own, which would keep them alive beside the variables
        self._encoder = Parameters(plan.stored(spec.encoder.parameters()) if plan else spec.encoder.parameters())
        self._heads = Parameters(head_parameters(spec.modules))
        self._ranges = {name: tf.Variable(starts_and_steps(item), name=name) for name, item in (ranges or {}).items()}
        # Shared by the signatures, so that the artifact holds each part of the graph once.
        self._tokenize = tf.function(self._tokenize_text, input_signature=[TEXT], autograph=False)
        skipping = not spec.pooling.include_prompt
        packed = SKIPPING if skipping else PACKED
        pool = tf.function(
            self._pool_tokens,
            input_signature=packed,
            autograph=False,
            # Called from two places then: not inlined, so that a server optimizes and keeps it once.
            experimental_attributes=None if batching is None else {"_noinline": True},
        )
        if batching is not None:
            together = batched(pool, pool, spec.pooling.dim, batching, skipping=skipping)
            pool = tf.function(together, input_signature=packed, autograph=False)
        self._pool = pool
        self._embed = tf.function(self._embed_joined, input_signature=[TEXT, SKIPPED], autograph=False)
        self._hidden = tf.function(self._hidden_tokens, input_signature=PACKED, autograph=False)
        self.stages = tf.function(self._stages, input_signature=[tf.TensorSpec([None], tf.string, "text")])

    def encoder_parameters(self) -> dict[str, tf.Tensor]:
        """The encoder's parameters by the names of its ``parameters``."""
        return self._encoder.named(self._encoder.read())

    # parts of the graph

    def _tokenize_text(self, text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Strings, prompts before them, to packed ids, row splits and token counts before truncation, all int32."""
        packed = self.tokenizer(text)
        return packed.ids, tf.cast(packed.row_splits, tf.int32), packed.num_tokens

    def _encoding(self) -> Callable[[Chunk], tf.Tensor]:
        """The encoder as a function of chunks. Parameters are read here, once, and not for each chunk."""
        spec, plan, values = self._spec.encoder, self._plan, self._encoder.read()

        def encode(chunk: Chunk) -> tf.Tensor:
            params = self._encoder.named(values)
            products = MixedProducts(params, spec, plan) if plan else Float32Products(params, spec)
            return spec.hidden_states(products, chunk, fused_norm=self._fused_norm)

        return encode

    def _pool_tokens(self, *packed: tf.Tensor) -> tf.Tensor:
        encode, pooling, columns = self._encoding(), self._spec.pooling, self._spec.encoder.any_mask
        return in_chunks(
            Tokens(*packed),
            lambda chunk: pool(pooling, encode(chunk), chunk, columns=columns),
            pooling.dim,
            per_token=False,
            coarse=self._plan is not None,
        )

    def _hidden_tokens(self, *packed: tf.Tensor) -> tf.Tensor:
        width, coarse = self._spec.encoder.hidden_size, self._plan is not None
        return in_chunks(Tokens(*packed), self._encoding(), width, per_token=True, coarse=coarse)

    def text_tokens(self, text: tf.Tensor) -> tuple[Tokens, tf.Tensor]:
        """Strings to packed tokens, the default prompt's first, and the int32 number of each text's tokens before
        truncation."""
        prompt = self._spec.texts[0].prompt
        return self._joined_tokens(_joined(prompt.text, text), prompt.skipped)

    def _joined_tokens(self, text: tf.Tensor, skipped: int | tf.Tensor) -> tuple[Tokens, tf.Tensor]:
        """As ``text_tokens``, of strings with prompts before them, of which pooling leaves out ``skipped`` tokens."""
        ids, splits, num_tokens = self._tokenize(text)
        ids = with_embeddings(ids, self._spec.tokenizer, self._spec.encoder.vocab_size)
        columns = tf.range(tf.size(ids)) - tf.repeat(splits[:-1], splits[1:] - splits[:-1])
        positions = self._spec.encoder.positions(ids, columns, splits)
        return self._skipping(Tokens(ids, tf.zeros_like(ids), positions, splits), skipped), num_tokens

    def _skipping(self, tokens: Tokens, count: int | tf.Tensor) -> Tokens:
        return tokens if self._spec.pooling.include_prompt else tokens.with_skipped(count)

    def _embed_joined(self, text: tf.Tensor, skipped: tf.Tensor) -> tf.Tensor:
        return self._embedding(self._joined_tokens(text, skipped)[0])[0]

    def _embedding(self, tokens: Tokens) -> tuple[tf.Tensor, Outputs]:
        """The final embedding ``[batch, dim]``, and the embedding after each module."""
        return self.finish(self._pool(*tokens.tensors()))

    def finish(self, pooled: tf.Tensor) -> tuple[tf.Tensor, Outputs]:
        """What pooling gave to the final embedding ``[batch, dim]``; and the embedding after each module."""
        x, params = pooled, self._heads.named(self._heads.read())
        first, *names = stage_names(self._spec.modules)
        stages = {first: x}
        for name, head in zip(names, self._spec.heads, strict=True):
            x = head.apply(own_parameters(params, name), x)
            stages[name] = x
        return x[:, : self._spec.dim], stages

    def _padded(self, splits: tf.Tensor, *columns: tuple[tf.Tensor, Any]) -> tuple[tf.Tensor, ...]:
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

    # signatures

    def _serving_default(self, text: tf.Tensor) -> Outputs:
        return self._text_signature(self._spec.texts[0], text)

    def _text_signature(self, signature: TextSignature, text: tf.Tensor) -> Outputs:
        prompt = signature.prompt
        x = self._embed(_joined(prompt.text, text), prompt.skipped)
        if signature.cut:
            x = x[:, : signature.dim]
        if signature.normalized:
            x = NormalizeSpec().apply({}, x)
        if signature.quantized:
            x = quantized(x, signature.quantized, self._ranges[signature.ranges] if signature.ranges else None)
        return {"embedding": x}

    def _detailed(self, text: tf.Tensor) -> Outputs:
        tokens, num_tokens = self.text_tokens(text)
        return {
            "embedding": self._embedding(tokens)[0],
            "num_tokens": num_tokens,
            "truncated": num_tokens > self._spec.max_length,
        }

    def _tokenize_signature(self, text: tf.Tensor) -> Outputs:
        ids, splits, _ = self._tokenize(_joined(self._spec.prompt, text))
        input_ids, mask = self._padded(splits, (ids, self.tokenizer.pad_id))
        return {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": tf.zeros_like(input_ids)}

    def _embed_tokens(self, input_ids: tf.Tensor, attention_mask: tf.Tensor, token_type_ids: tf.Tensor) -> Outputs:
        positions = padded_positions(self._spec.encoder, input_ids)
        attention_mask = self._without_holes(attention_mask)
        tokens = self._checked(pack(input_ids, attention_mask, token_type_ids, positions))
        return {"embedding": self._embedding(self._skipping(tokens, 0))[0]}

    def _without_holes(self, attention_mask: tf.Tensor) -> tf.Tensor:
        """A caller's mask, once its rows are known to be such as the encoder takes."""
        if self._spec.encoder.any_mask:
            return attention_mask
        on = tf.cast(tf.not_equal(attention_mask, 0), tf.int32)
        starts = tf.maximum(on - tf.pad(on, [[0, 0], [1, 0]])[:, :-1], 0)
        message = f"attention_mask must have its ones side by side in each row for {self._spec.encoder.family}"
        check = tf.debugging.Assert(tf.reduce_all(tf.reduce_sum(starts, 1) <= 1), [message])
        with tf.control_dependencies([check]):
            return tf.identity(attention_mask)

    def _checked(self, tokens: Tokens) -> Tokens:
        """``tokens`` that a caller chose, once each is known to have an embedding.

        The lookups would notice as well, but only in a batch, where they fail for the other callers too.
        """
        encoder = self._spec.encoder
        limits = (encoder.vocab_size, encoder.type_vocab_size, encoder.max_positions)
        names = ("input_ids", "token_type_ids", "positions")
        checks = [
            tf.debugging.Assert(
                tf.reduce_all((values >= 0) & (values < limit)), [f"{name} must be from 0 to {limit - 1}"]
            )
            for name, values, limit in zip(names, tokens[:3], limits, strict=True)
            if limit  # no table of positions otherwise
        ]
        with tf.control_dependencies(checks):
            return Tokens(*map(tf.identity, tokens.tensors()))

    def _token_embeddings(self, text: tf.Tensor) -> Outputs:
        tokens, _ = self.text_tokens(text)
        hidden, mask = self._padded(tokens.row_splits, (self._hidden(*tokens[:4]), 0.0))
        return {"token_embeddings": hidden, "attention_mask": mask}

    def _stages(self, text: tf.Tensor) -> Outputs:
        return self._embedding(self.text_tokens(text)[0])[1]

    def signature_functions(self) -> dict[str, Any]:
        """Concrete functions by signature name, with the input names and dtypes of ``signatures``."""
        functions: dict[str, Callable[..., Outputs]] = {
            "serving_default": self._serving_default,
            "detailed": self._detailed,
            "tokenize": self._tokenize_signature,
            "embed_tokens": self._embed_tokens,
            "token_embeddings": self._token_embeddings,
            **{item.name: functools.partial(self._text_signature, item) for item in self._spec.texts[1:]},
        }
        return {
            item.name: tf.function(guarded(functions[item.name], item.inputs), autograph=False).get_concrete_function(
                *(_tensor_spec(tensor) for tensor in item.inputs)
            )
            for item in self.signatures
        }

    @property
    def signatures(self) -> tuple[Signature, ...]:
        """Those that every model has, and those of this one."""
        return (*SIGNATURES, *(item.signature for item in self._spec.texts[1:]))


def _joined(prompt: str, text: tf.Tensor) -> tf.Tensor:
    return tf.strings.join([prompt, text]) if prompt else text


def _tensor_spec(tensor: Tensor) -> tf.TensorSpec:
    return tf.TensorSpec([None] * len(tensor.shape), tf.as_dtype(tensor.dtype), tensor.name)
