"""The model of ``embed`` as one TensorFlow module: tokenizer, encoder, pooling and what is behind it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from toolkit.encoder.family import padded_positions
from toolkit.encoder.layout import Layout
from toolkit.encoder.packing import Chunk, Tokens, pack
from toolkit.encoder.parameters import Parameters
from toolkit.encoder.static import StaticSpec
from toolkit.graph.model import PACKED, TEXT, Outputs, Part, ServingModel, TextModel, joined
from toolkit.graph.tasks.embed import EmbedSpec
from toolkit.heads.head import SENTENCE, TOKENS, HeadSpec, head_parameters, own_parameters, stage_names
from toolkit.heads.normalize import NormalizeSpec
from toolkit.heads.pooling import only_token, pool
from toolkit.heads.quantized import quantized, starts_and_steps
from toolkit.signatures import TextSignature
from toolkit.tokenizer import TokenizerSpec
from toolkit.tokenizer.graph import TokenizerGraph

__all__ = ["EmbedModel"]

Array = npt.NDArray[np.float32]

SKIPPED = tf.TensorSpec([], tf.int32)


class EmbedModel(TextModel):
    """An ``EmbedSpec`` as TensorFlow functions.

    ``stages`` yields the embedding after every module. ``ranges`` are the smallest and largest value of each number,
    ``[2, dim]``, by the names by which signatures that are quantized to 256 steps ask for them.
    """

    def __init__(
        self,
        spec: EmbedSpec,
        layout: Layout = Layout(),
        ranges: Mapping[str, Array] | None = None,
        beside: Sequence[ServingModel] = (),
    ) -> None:
        super().__init__(spec, layout, beside)
        self._spec = spec
        self._names = stage_names(spec.modules)
        self._routes: dict[str | None, EmbedModel] = {}
        for name, route in spec.routes.items():
            others = (self, *self._routes.values())
            self._routes[name] = EmbedModel(route, layout, ranges, others)
        self._heads = Parameters(head_parameters(spec.modules))
        self._ranges = {name: tf.Variable(starts_and_steps(item), name=name) for name, item in (ranges or {}).items()}
        if isinstance(static := spec.encoder, StaticSpec):
            self._pool = Part(
                lambda ids, types, positions, splits: static.means(self.encoder_parameters(), ids, splits), PACKED
            )
        else:
            asked, skipping = functools.partial(only_token, spec.pooling), not spec.pooling.include_prompt
            self._pool = self.by_row(self.pooling, spec.pooling.dim, asked, skipping=skipping)
        self._embed = Part(self.on_host(self._embed_joined), [TEXT, SKIPPED])
        self._staged = Part(self.on_host(self._stages), [tf.TensorSpec([None], tf.string, "text")])

    # parts of the graph

    def pooling(self) -> Callable[[tf.Tensor, Chunk], tf.Tensor]:
        """What makes ``[rows, dim]``, a vector for each text, of a chunk's hidden states. Parameters are read here."""
        spec, of_tokens = self._spec, self._of_tokens()
        columns = spec.encoder.any_mask
        return lambda hidden, chunk: pool(spec.pooling, of_tokens(hidden), chunk, columns=columns)

    def _of_tokens(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """The modules in front of pooling, as a function of packed hidden states ``[n, hidden]``."""
        spec = self._spec
        if not spec.token_heads:
            return lambda hidden: hidden
        params = self._heads.named(self._heads.read())
        return lambda hidden: _through(spec.token_heads, self._names, params, {TOKENS: hidden})[0][TOKENS]

    def tried_tokens(self, rows: Sequence[str]) -> Tokens:
        return self.prompted_tokens(tf.constant([row.encode() for row in rows]))[0]

    def tried_answers(self) -> Callable[[tf.Tensor, Chunk], tf.Tensor]:
        pooled = self.pooling()
        return lambda hidden, chunk: self.finish(pooled(hidden, chunk))[0]

    def prompted_tokens(self, text: tf.Tensor) -> tuple[Tokens, tf.Tensor]:
        """Strings to packed tokens, the default prompt's first, and the int32 number of each text's tokens before
        truncation."""
        prompt = self._spec.texts[0].prompt
        tokens, num_tokens = self.text_tokens(joined(prompt.text, text))
        return self._skipping(tokens, prompt.skipped), num_tokens

    def _skipping(self, tokens: Tokens, count: int | tf.Tensor) -> Tokens:
        return tokens if self._spec.pooling.include_prompt else tokens.with_skipped(count)

    def _embed_joined(self, text: tf.Tensor, skipped: tf.Tensor) -> tf.Tensor:
        return self._embedding(self._skipping(self.text_tokens(text)[0], skipped))[0]

    def _embedding(self, tokens: Tokens) -> tuple[tf.Tensor, Outputs]:
        """The final embedding ``[batch, dim]``, and the embedding after each module."""
        return self.finish(self._pool(*tokens.tensors()))

    def finish(self, pooled: tf.Tensor) -> tuple[tf.Tensor, Outputs]:
        """What pooling gave to the final embedding ``[batch, dim]``; and the embedding after each module."""
        params, first = self._heads.named(self._heads.read()), len(self._spec.token_heads)
        names = self._names[first + 1 :]
        features, stages = _through(self._spec.heads, names, params, {SENTENCE: pooled})
        return features[SENTENCE][:, : self._spec.dim], {self._names[first]: pooled, **stages}

    # signatures

    def _of(self, signature: TextSignature) -> EmbedModel:
        """The model of the way that its texts go."""
        return self._routes.get(signature.prompt.name, self)

    def _serving_default(self, text: tf.Tensor) -> Outputs:
        return self._text_signature(self._spec.texts[0], text)

    def _text_signature(self, signature: TextSignature, text: tf.Tensor) -> Outputs:
        prompt = signature.prompt
        x = self._embed(joined(prompt.text, text), prompt.skipped)
        if signature.cut:
            x = x[:, : signature.dim]
        if signature.normalized:
            x = NormalizeSpec().apply({}, x)
        if signature.quantized:
            x = quantized(x, signature.quantized, self._ranges[signature.ranges] if signature.ranges else None)
        return {"embedding": x}

    def _detailed(self, text: tf.Tensor) -> Outputs:
        tokens, num_tokens = self.prompted_tokens(text)
        return {
            "embedding": self._embedding(tokens)[0],
            "num_tokens": num_tokens,
            "truncated": num_tokens > (self._spec.max_length or num_tokens.dtype.max),
        }

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
        tokens, _ = self.prompted_tokens(text)
        hidden, mask = self.padded(tokens.row_splits, (self._of_tokens()(self._hidden(*tokens[:4])), 0.0))
        return {"token_embeddings": hidden, "attention_mask": mask}

    def _stages(self, text: tf.Tensor) -> Outputs:
        return self._embedding(self.prompted_tokens(text)[0])[1]

    def tokenizers(self) -> list[tuple[TokenizerSpec, TokenizerGraph]]:
        found = [*super().tokenizers(), *(item for model in self._routes.values() for item in model.tokenizers())]
        return list({id(graph): (spec, graph) for spec, graph in found}.values())

    def functions(self) -> Mapping[str, Callable[..., Outputs]]:
        return {
            "serving_default": self._serving_default,
            "detailed": self._detailed,
            "tokenize": self._tokenize_signature,
            "embed_tokens": self._embed_tokens,
            "token_embeddings": self._token_embeddings,
            **{item.name: functools.partial(self._of(item)._text_signature, item) for item in self._spec.texts[1:]},
        }


def _through(
    heads: Sequence[HeadSpec], names: Sequence[str], params: Mapping[str, tf.Tensor], features: Mapping[str, tf.Tensor]
) -> tuple[Outputs, Outputs]:
    """Features after ``heads``, whose parameters begin with their ``names``; and what each of them wrote, by name."""
    there, written = dict(features), {}
    for name, head in zip(names, heads, strict=False):
        there[head.writes] = written[name] = head.apply(own_parameters(params, name), there[head.reads])
    return there, written
