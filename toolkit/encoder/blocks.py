"""The parts that families are put together from: embeddings, self-attention and layers, on a chunk's packed tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from toolkit.encoder.attention import EVERYWHERE, WHOLE, Attention, Bias, Masks, Reach
from toolkit.encoder.family import EncoderSpec
from toolkit.encoder.heads import shape_beside
from toolkit.encoder.layers import ACTIVATION_FUNCTIONS, fused_layer_norm, layer_norm, rms_norm
from toolkit.encoder.packing import Chunk
from toolkit.encoder.precision.products import Products
from toolkit.encoder.rotary import Rotary, Rotation

__all__ = ["Blocks"]


class Blocks:
    """For one chunk. ``fused_norm`` as in :meth:`~toolkit.encoder.family.EncoderSpec.hidden_states`."""

    def __init__(self, products: Products, spec: EncoderSpec, chunk: Chunk, *, fused_norm: bool) -> None:
        self._products, self._spec, self._chunk = products, spec, chunk
        # For one row the fused kernel takes longer to get ready than the few operations do.
        single = chunk.mask.shape[0] == 1
        self._norm = fused_layer_norm if fused_norm and not single else layer_norm
        self._masks = Masks(chunk.mask)
        self._attentions: dict[tuple[Reach, float | None, Bias | None], Attention] = {}
        self._heads = chunk.heads(spec.num_heads)
        self._counts = (spec.num_heads, spec.num_key_heads, spec.num_key_heads)
        self._last = False

    def layers(self, names: Sequence[str] | None = None) -> Iterator[str]:
        """The names of the layers in turn, ``layer_0`` and so on unless there are others.

        Behind attention each token goes its own way: from there on the last layer is computed for those tokens alone
        whose hidden states the chunk is asked for.
        """
        names = [f"layer_{number}" for number in range(self._spec.num_layers)] if names is None else names
        for number, name in enumerate(names, start=1):
            self._last = number == len(names)
            yield name

    def asked(self, x: tf.Tensor) -> tf.Tensor:
        """``x`` of the tokens that are computed behind a layer's attention, of ``[padded_total, size]``."""
        tokens = self._answered
        return x if tokens is None else tf.gather(x, tokens)

    @property
    def _answered(self) -> tf.Tensor | None:
        """The tokens that are computed behind the present layer's attention, int32 ``[n]``; ``None``: all."""
        return self._chunk.asked if self._last else None

    def norm(self, x: tf.Tensor, name: str) -> tf.Tensor:
        """The LayerNorm ``name`` over the last axis."""
        gamma, beta = self._products.parameter(f"{name}/gamma"), self._products.parameter(f"{name}/beta")
        return self._norm(x, gamma, beta, self._spec.layer_norm_eps)

    def rms_norm(self, x: tf.Tensor, name: str) -> tf.Tensor:
        """The normalization ``name`` by the root mean square over the last axis."""
        return rms_norm(x, self._products.parameter(f"{name}/gamma"), self._spec.layer_norm_eps)

    def dropout(self, x: tf.Tensor) -> tf.Tensor:
        """Where the original drops hidden values in training."""
        return self._products.dropout(x, self._spec.hidden_dropout)

    def linear(self, x: Any, name: str, *, activation: bool = False, residual: tf.Tensor | None = None) -> Any:
        """See :meth:`~toolkit.encoder.precision.products.Products.linear`."""
        return self._products.linear(x, name, activation=activation, residual=residual)

    def embeddings(self, *tables: str) -> tf.Tensor:
        """The sum of the tables ``word``, ``type`` and ``position`` at each token: float32 ``[padded_total, size]``."""
        ids, type_ids, positions = self._chunk.tokens[:3]
        index = {"word": ids, "type": type_ids, "position": positions}
        x = self._products.embedding(f"embeddings/{tables[0]}", index[tables[0]])
        for table in tables[1:]:
            x = x + self._products.embedding(f"embeddings/{table}", index[table])
        return x

    def projection(self, x: tf.Tensor, name: str) -> tf.Tensor:
        """A product whose result goes on as the hidden state, float32."""
        return tf.cast(self.linear(x, name), tf.float32)

    def relative_bias(self, name: str) -> Bias:
        """Attention's bias by distance.

        The parameter ``name``, ``[heads, 2 * n - 1]``, has those of a key ``n - 1`` places before the query, and so on
        up to ``n - 1`` places behind it; who is farther has that of the last place.
        """
        table = self._products.parameter(name)
        last = table.shape[1] - 1

        def between(queries: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
            distance = tf.clip_by_value(keys[None, :] - queries[:, None] + last // 2, 0, last)
            return tf.gather(table, distance, axis=1)[None]

        def part(query: tf.Tensor, key: tf.Tensor, start: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
            return between(start + tf.range(tf.shape(query)[2]), first + tf.range(tf.shape(key)[2]))

        place = tf.range(tf.minimum(self._chunk.length, WHOLE))
        whole = between(place, place)  # once for all layers that have it
        return Bias(lambda query, key: whole, part)

    def parameter(self, name: str) -> tf.Tensor:
        """See :meth:`~toolkit.encoder.precision.products.Products.parameter`."""
        return self._products.parameter(name)

    def attention(
        self, x: tf.Tensor, name: str, *, residual: tf.Tensor, bias: Bias | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Self-attention of all heads on the product ``name``/qkv of ``x``, packed, and the ``residual`` of the same
        tokens: all, but for those of `layers` in the last.

        ``bias`` is added to the scores; long rows are computed in parts.
        """
        qkv = self.linear(x, f"{name}/qkv")
        query, key, value = self._heads.split(qkv, qkv.shape[1] // sum(self._counts), self._counts)
        return self._attended(self._attend(bias=bias), (query, key, value), residual)

    def _attended(
        self, attention: Attention, heads: Sequence[tf.Tensor], residual: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """What ``attention`` gives for each head's query, key and value, packed, and the residual beside it."""
        tokens = self._answered
        if tokens is None:
            return self._heads.join(attention(*heads), like=residual), residual
        residual = self.asked(residual)
        if attention.bias is not None:
            return self._heads.join(attention(*heads), like=residual, tokens=tokens), residual
        query, key, value = heads
        context = attention.at(query, key, value, tf.gather(self._chunk.slot, tokens) % self._chunk.length)
        return tf.reshape(context, shape_beside(residual, context.shape[1] * context.shape[3])), residual

    def _attend(self, reach: Reach = EVERYWHERE, cap: float | None = None, bias: Bias | None = None) -> Attention:
        """One for all layers of a kind."""
        kind, spec = (reach, cap, bias), self._spec
        # on a GPU one large product is faster than blocks one by one
        whole = WHOLE if self._chunk.target.buckets else reach.whole
        if kind not in self._attentions:
            self._attentions[kind] = Attention(
                self._masks,
                spec.attention_scale,
                lambda weights: self._products.dropout(weights, spec.attention_dropout),
                spec.max_length,
                *kind,
                whole,
            )
        return self._attentions[kind]

    def rotation(self, rotary: Rotary) -> Rotation:
        """That of each token, by its position."""
        return rotary.at(self._chunk.tokens.positions)

    def stored_rotation(self, name: str) -> Rotation:
        """The same, of cosines and sines that are parameters: ``name``/cos and ``name``/sin, ``[positions, pairs]``."""
        positions = self._chunk.tokens.positions
        return Rotation(*(tf.gather(self.parameter(f"{name}/{part}"), positions)[:, None] for part in ("cos", "sin")))

    def rotary_attention(
        self,
        x: tf.Tensor,
        name: str,
        *,
        residual: tf.Tensor,
        rotation: Rotation,
        reach: Reach = EVERYWHERE,
        normed_heads: bool = False,
        turn_values: bool = False,
        cap: float | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """As ``attention``, of queries and keys that are turned.

        With ``normed_heads`` each head of queries and keys is normalized first, by ``name``/query_norm and
        ``name``/key_norm; with ``turn_values`` values are turned too. ``reach`` and ``cap`` as in
        :class:`~toolkit.encoder.attention.Attention`.
        """
        # Before tokens get their places in the padded view, which has up to twice as many.
        qkv, counts = self.linear(x, f"{name}/qkv"), self._counts
        size = qkv.shape[1] // sum(counts)
        turning = sum(counts) if turn_values else sum(counts[:2])
        turned = tf.reshape(qkv, [-1, sum(counts), size])[:, :turning]
        if normed_heads:
            turned = self._head_norms(turned, name)
        turned = tf.reshape(rotation(turned), [-1, turning * size])
        if turn_values:
            parts = self._heads.split(turned, size, counts)
        else:
            parts = [*self._heads.split(turned, size, counts[:2]), *self._heads.split(qkv, size, counts[2:], turning)]
        return self._attended(self._attend(reach, cap), parts, residual)

    def _head_norms(self, x: tf.Tensor, name: str) -> tf.Tensor:
        """Heads of queries and, behind them, of keys, ``[n, heads, size]``, each normalized by its kind's numbers."""
        of_kind = zip(("query_norm", "key_norm"), self._counts, strict=False)
        gammas = [tf.repeat(self.parameter(f"{name}/{norm}/gamma")[None], count, 0) for norm, count in of_kind]
        return tf.cast(rms_norm(tf.cast(x, tf.float32), tf.concat(gammas, 0), self._spec.layer_norm_eps), x.dtype)

    def gated(self, x: tf.Tensor, name: str) -> tf.Tensor:
        """The activation of the first half of the product ``name`` of ``x``, times the second half."""
        gate, inner = self._products.halves(x, name)
        return ACTIVATION_FUNCTIONS[self._spec.activation](gate) * inner

    def post_norm_layer(self, x: tf.Tensor, name: str, bias: Bias | None = None) -> tf.Tensor:
        """A layer as BERT has it: each LayerNorm over a residual and what was added to it."""
        return self.post_norm_rest(*self.attention(x, name, residual=x, bias=bias), name)

    def post_norm_rest(self, context: tf.Tensor, x: tf.Tensor, name: str) -> tf.Tensor:
        """The same from what attention gave on, and the residual beside it."""
        x = self.norm(self.linear(context, f"{name}/attention_output", residual=x), f"{name}/attention_norm")
        inner = self.linear(x, f"{name}/intermediate", activation=True)
        return self.norm(self.linear(inner, f"{name}/output", residual=x), f"{name}/output_norm")

    def pre_norm_layer(self, x: tf.Tensor, name: str) -> tf.Tensor:
        """A layer that normalizes what goes into attention and feed-forward, and adds to what does not."""
        context, x = self.attention(self.norm(x, f"{name}/attention_norm"), name, residual=x)
        x = self.linear(context, f"{name}/attention_output", residual=x)
        inner = self.linear(self.norm(x, f"{name}/output_norm"), f"{name}/intermediate", activation=True)
        return self.linear(inner, f"{name}/output", residual=x)
