"""DeBERTa-v2 and v3 (He et al. 2020, arXiv:2006.03654; 2021, arXiv:2111.09543), as transformers' ``DebertaV2Model``
computes them.

Attention is disentangled: to the product of two tokens' query and key comes that of the query with a key for the
distance between the two (content to position, ``c2p``), and of the key with a query for it (``p2c``). Far distances
share buckets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from toolkit.encoder.families.bert import LAYER as BERT_LAYER
from toolkit.encoder.families.bert import UNUSED, bert_fields
from toolkit.encoder.family import LAYER_PRODUCTS, EncoderSpec
from toolkit.encoder.fields import Fields
from toolkit.encoder.weights import Weights
from toolkit.errors import UnsupportedError

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.encoder.attention import Bias
    from toolkit.encoder.blocks import Blocks
    from toolkit.encoder.packing import Chunk
    from toolkit.encoder.precision.products import Products
    from toolkit.source.checkpoint import RawModule

__all__ = ["DebertaV2Spec"]

Array = npt.NDArray[np.float32]

PROJECTION, CONVOLUTION, DISTANCES = "embeddings/projection", "convolution", "distances"

PARTS = ("query", "key")
TABLES = {"word": "word_embeddings", "type": "token_type_embeddings", "position": "position_embeddings"}

LAYER = replace(
    BERT_LAYER,
    query="attention.self.query_proj",
    key="attention.self.key_proj",
    value="attention.self.value_proj",
)


@dataclass(frozen=True, kw_only=True)
class DebertaV2Spec(EncoderSpec):
    """BERT's layers with disentangled attention, perhaps with a convolution beside the first of them.

    ``distances`` are told apart, put into ``buckets`` (0: each has its own). ``c2p`` and ``p2c`` say which products
    with distances there are, and ``summands`` of how many products the scores are scaled as the sum.
    ``shared_projections`` are those of tokens, used for distances too; ``normed_distances`` have a LayerNorm.
    ``convolution`` is the width in tokens, 0 where there is none. Without ``typed`` there is no table of types.

    What a layer projects the distances to depends on no text and is a parameter here, as is no embedding of a distance.
    """

    model_types: ClassVar[tuple[str, ...]] = ("deberta-v2",)
    title: ClassVar[str] = "DeBERTa-v2, DeBERTa-v3"
    any_mask: ClassVar[bool] = False
    any_look: ClassVar[bool] = False

    embedding_size: int
    typed: bool
    relative: bool
    distances: int
    buckets: int
    c2p: bool
    p2c: bool
    summands: int
    shared_projections: bool
    normed_distances: bool
    convolution: int
    convolution_activation: str

    @classmethod
    def read(cls, module: RawModule) -> Self:
        fields, numbers, config = Fields(module), bert_fields(module), module.config
        hidden, longest = numbers["hidden_size"], numbers["max_positions"]
        fields.only("attention_head_size", (None, hidden // numbers["num_heads"]))
        kinds = config.get("pos_att_type") or []
        types = fields.positive("type_vocab_size") if config.get("type_vocab_size") else 0
        if not config.get("position_biased_input", True):
            numbers["max_positions"] = 0
        relative = fields.flag("relative_attention")
        norms = str(config.get("norm_rel_ebd", "none")).lower().split("|")
        return cls(
            embedding_size=hidden if config.get("embedding_size") is None else fields.positive("embedding_size"),
            typed=types > 0,
            type_vocab_size=max(types, 1),
            relative=relative,
            c2p=relative and "c2p" in kinds,
            p2c=relative and "p2c" in kinds,
            summands=1 + ("c2p" in kinds) + ("p2c" in kinds),
            shared_projections=fields.flag("share_att_key"),
            normed_distances="layer_norm" in [kind.strip() for kind in norms],
            **_buckets(module, longest),
            **_convolution(module),
            **numbers,
        )

    @property
    def attention_scale(self) -> float:
        return float((self.hidden_size // self.num_heads * self.summands) ** -0.5)

    def stored(self) -> dict[str, Array]:
        weights = Weights(self.tensors, ignore=UNUSED)
        hidden, size = self.hidden_size, self.embedding_size
        rows = {"word": self.vocab_size, "type": self.type_vocab_size * self.typed, "position": self.max_positions}
        p = {
            f"embeddings/{table}": weights.take(f"embeddings.{TABLES[table]}.weight", (count, size))
            for table, count in rows.items()
            if count
        }
        p |= weights.norm("embeddings.LayerNorm", "embeddings/norm", hidden)
        if size != hidden:
            p |= weights.linear(["embeddings.embed_proj"], PROJECTION, size, hidden, bias=False)
        p |= self._stored_distances(weights)
        for layer in range(self.num_layers):
            p |= self.layer(weights, layer)
            for part in self._parts if not self.shared_projections else ():
                p |= self.projection(weights, layer, part)
        if self.convolution:
            kernel = weights.take("encoder.conv.conv.weight", (hidden, hidden, self.convolution))
            p[f"{CONVOLUTION}/kernel"] = np.ascontiguousarray(kernel.transpose(2, 1, 0)).reshape(-1, hidden)
            p[f"{CONVOLUTION}/bias"] = weights.take("encoder.conv.conv.bias", (hidden,))
            p |= weights.norm("encoder.conv.LayerNorm", f"{CONVOLUTION}/norm", hidden)
        weights.finish()
        return p

    def layer(self, weights: Weights, layer: int) -> dict[str, Array]:
        """The parameters of a layer, but for distances."""
        names = LAYER.at(f"encoder.layer.{layer}")
        return weights.layer(names, f"layer_{layer}", self.hidden_size, self.intermediate_size)

    @property
    def _parts(self) -> tuple[int, ...]:
        """What distances are projected to, as ``PARTS`` counts."""
        return tuple(part for part, wanted in enumerate((self.p2c, self.c2p)) if wanted)

    def _stored_distances(self, weights: Weights) -> dict[str, Array]:
        """The embeddings of distances, ``[2 * span, hidden]``, from far before to far behind, and their LayerNorm."""
        hidden, found = self.hidden_size, {}
        if self.relative:
            found[DISTANCES] = weights.take("encoder.rel_embeddings.weight", (2 * self.span, hidden))
        if self.normed_distances:
            norm = weights.norm("encoder.LayerNorm", DISTANCES, hidden)
            found |= norm if self.relative else {}
        return found

    def projection(self, weights: Weights, layer: int, part: int) -> dict[str, Array]:
        """What distances are projected by where they do not share what tokens are projected by."""
        own = f"encoder.layer.{layer}.attention.self.pos_{PARTS[part]}_proj"
        return weights.linear([own], f"layer_{layer}/project_{PARTS[part]}", self.hidden_size, self.hidden_size)

    def derived(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        import tensorflow as tf

        from toolkit.encoder.layers import layer_norm

        p, heads = dict(stored), self.num_heads
        if not self.relative:
            return p
        # in double precision: once for all texts
        distances = tf.cast(p.pop(DISTANCES), tf.float64)
        if self.normed_distances:
            gamma, beta = (tf.cast(p.pop(f"{DISTANCES}/{name}"), tf.float64) for name in ("gamma", "beta"))
            distances = layer_norm(distances, gamma, beta, self.layer_norm_eps)
        for layer, part in product(range(self.num_layers), self._parts):
            kernel, bias = (tf.cast(item, tf.float64) for item in self._projected_by(p, layer, part))
            rows = (distances @ kernel + bias) * self.attention_scale
            by_head = tf.transpose(tf.reshape(rows, [2 * self.span, heads, self.hidden_size // heads]), [1, 0, 2])
            p[f"layer_{layer}/distance_{PARTS[part]}"] = tf.cast(by_head, tf.float32)
        return p

    def _projected_by(self, p: dict[str, Any], layer: int, part: int) -> tuple[Any, Any]:
        """Kernel ``[hidden, hidden]`` and bias ``[hidden]`` of distances."""
        hidden = self.hidden_size
        if self.shared_projections:
            place = slice(part * hidden, (part + 1) * hidden)
            return p[f"layer_{layer}/qkv/kernel"][:, place], p[f"layer_{layer}/qkv/bias"][place]
        own = f"layer_{layer}/project_{PARTS[part]}"
        return p.pop(f"{own}/kernel"), p.pop(f"{own}/bias", np.zeros(hidden))

    @property
    def span(self) -> int:
        """Rows of the table of distances on either side."""
        return self.buckets or self.distances

    def product_names(self) -> tuple[str, ...]:
        names, first = super().product_names(), len(LAYER_PRODUCTS)
        projection = (PROJECTION,) if self.embedding_size != self.hidden_size else ()
        convolution = (CONVOLUTION,) if self.convolution else ()
        return (*projection, *names[:first], *convolution, *names[first:])

    def hidden_states(self, products: Products, chunk: Chunk, *, fused_norm: bool = False) -> tf.Tensor:
        from toolkit.encoder.blocks import Blocks

        blocks = Blocks(products, self, chunk, fused_norm=fused_norm)
        tables = [name for name, there in (("type", self.typed), ("position", self.max_positions)) if there]
        x = blocks.embeddings("word", *tables)
        if self.embedding_size != self.hidden_size:
            x = blocks.projection(x, PROJECTION)
        embedded = x = blocks.dropout(blocks.norm(x, "embeddings/norm"))
        biases = self._biases(blocks, chunk.length)
        for layer, (name, bias) in enumerate(zip(blocks.layers(), biases, strict=True)):
            x = blocks.post_norm_layer(x, name, bias)
            if layer == 0 and self.convolution:
                x = self._convolved(blocks, chunk, embedded, x)
        return x

    def _biases(self, blocks: Blocks, length: tf.Tensor) -> list[Bias | None]:
        """Layer by layer what is added to the scores of queries and keys."""
        import tensorflow as tf

        from toolkit.encoder.attention import Bias

        # Places from the most before to the most behind, and one more that is cut off.
        before = tf.range(1 - length, length + 1)
        of_key, of_query = _rows(self, -before), _rows(self, before)

        def tables(layer: int) -> list[tf.Tensor | None]:
            return [
                blocks.parameter(f"layer_{layer}/distance_{name}") if there else None
                for name, there in (("key", self.c2p), ("query", self.p2c))
            ]

        def whole(query: tf.Tensor, key: tf.Tensor, layer: int) -> tf.Tensor:
            parts, (by_query, by_key) = [], tables(layer)
            if by_query is not None:
                parts.append(_by_place(query, by_query, of_key))
            if by_key is not None:
                parts.append(tf.linalg.matrix_transpose(_by_place(key, by_key, of_query)))
            return tf.add_n(parts)

        def part(query: tf.Tensor, key: tf.Tensor, start: tf.Tensor, first: tf.Tensor, layer: int) -> tf.Tensor:
            line, column = tf.range(tf.shape(query)[2])[:, None], tf.range(tf.shape(key)[2])[None, :]
            row = _rows(self, start + line - (first + column))
            return tf.add_n([
                _by_row(x, table, row, of_x)
                for x, table, of_x in zip((query, key), tables(layer), (line, column), strict=True)
                if table is not None
            ])  # fmt: skip

        if not (self.c2p or self.p2c):
            return [None] * self.num_layers
        return [Bias(partial(whole, layer=layer), partial(part, layer=layer)) for layer in range(self.num_layers)]

    def _convolved(self, blocks: Blocks, chunk: Chunk, embedded: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """``x`` and what a convolution of the embeddings says of each token's neighbours, normalized."""
        import tensorflow as tf

        from toolkit.encoder.layers import ACTIVATION_FUNCTIONS

        width, count = self.convolution, tf.size(chunk.slot)
        # Each token's row; those that fill the chunk up are in none.
        row = tf.where(tf.range(count) < chunk.total, chunk.slot // chunk.length, -1)
        beyond = [width // 2, width // 2]
        tokens, rows = tf.pad(embedded, [beyond, [0, 0]]), tf.pad(row, [beyond], constant_values=-1)
        neighbours = [
            tf.where(tf.equal(rows[step : step + count], row)[:, None], tokens[step : step + count], 0.0)
            for step in range(width)
        ]
        out = blocks.dropout(blocks.projection(tf.concat(neighbours, 1), CONVOLUTION))
        added = ACTIVATION_FUNCTIONS[self.convolution_activation](blocks.asked(out))
        return blocks.norm(x + added, f"{CONVOLUTION}/norm")


def _convolution(module: RawModule) -> dict[str, Any]:
    """The convolution beside the first layer, if there is one."""
    fields, width = Fields(module), module.config.get("conv_kernel_size") or 0
    if width <= 0:
        return {"convolution": 0, "convolution_activation": "linear"}
    if width % 2 == 0:  # which leaves a token less than there were
        raise UnsupportedError(module.file, "conv_kernel_size", width, "0 and odd numbers")
    fields.only("conv_groups", (1,), 1)
    activation = fields.activation("conv_act") if "conv_act" in module.config else "tanh"
    return {"convolution": width, "convolution_activation": activation}


def _buckets(module: RawModule, longest: int) -> dict[str, Any]:
    """How distances are told apart. ``longest`` is the configuration's ``max_position_embeddings``."""
    config = module.config
    distances, buckets = config.get("max_relative_positions", -1), config.get("position_buckets", -1)
    distances, buckets = distances if distances > 0 else longest, max(buckets, 0)
    if buckets and (buckets < 4 or buckets % 2 or buckets // 2 > distances - 2):
        # where the logarithms of the original divide by zero, or do not end at the last bucket
        supported = f"-1 and even numbers from 4 on to less than twice the {distances} distances"
        raise UnsupportedError(module.file, "position_buckets", buckets, supported)
    return {"distances": distances, "buckets": buckets}


def _by_place(x: tf.Tensor, table: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """The products of float ``x`` ``[texts, heads, n, size]`` with rows of ``table``: ``[texts, heads, n, n]``.

    Place ``i`` with place ``j`` is that with row ``rows[j - i + n - 1]`` of ``[heads, rows, size]``; ``rows`` are 2n.
    """
    import tensorflow as tf

    products = tf.linalg.matmul(x, tf.cast(tf.gather(table, rows, axis=1), x.dtype), transpose_b=True)
    texts, heads, n = tf.unstack(tf.shape(x)[:3])
    # Of lines of 2n numbers each begins one further back: read as lines of 2n - 1 from the n-th on, they stand upright.
    flat = tf.reshape(products, tf.stack([texts, heads, 2 * n * n]))[:, :, n - 1 : 2 * n * n - 1]
    return tf.reshape(flat, tf.stack([texts, heads, n, 2 * n - 1]))[:, :, :, :n]


def _by_row(x: tf.Tensor, table: tf.Tensor, row: tf.Tensor, of_x: tf.Tensor) -> tf.Tensor:
    """The same for some of a long text: the products of the places ``of_x`` of ``x`` with the rows ``row``, int32
    ``[n, m]``: ``[texts, heads, n, m]``. Those with all rows, of which there are fewer than places, are looked up."""
    import tensorflow as tf

    products = tf.linalg.matmul(x, tf.cast(table, x.dtype), transpose_b=True)
    texts, heads, places, rows = tf.unstack(tf.shape(products))
    return tf.gather(tf.reshape(products, tf.stack([texts, heads, places * rows])), of_x * rows + row, axis=2)


def _rows(spec: DebertaV2Spec, distances: tf.Tensor) -> tf.Tensor:
    """Rows of the tables of distances, int32 as ``distances``: a query's place less a key's."""
    import tensorflow as tf

    known = _known_rows(spec)
    middle = len(known) // 2
    return tf.gather(tf.constant(known), tf.clip_by_value(distances, -middle, middle) + middle)


def _known_rows(spec: DebertaV2Spec) -> npt.NDArray[np.int32]:
    """The row of each distance between far and far, all of those beyond having the last row of their side
    (``make_log_bucket_position``, and the clamps of ``disentangled_attention_bias``).

    In torch, and in its order of operations: a logarithm rounded otherwise puts a distance into another bucket.
    """
    import torch

    far = 2 * spec.distances
    row = distance = torch.arange(-far, far + 1)
    if middle := spec.buckets // 2:
        away = torch.where(distance.abs() < middle, middle - 1, distance.abs())
        steps = torch.log(away / middle) / torch.log(torch.tensor((spec.distances - 1) / middle)) * (middle - 1)
        row = torch.where(away <= middle, distance.to(steps.dtype), (torch.ceil(steps) + middle) * torch.sign(distance))
    return np.asarray(torch.clamp(row.to(torch.long) + spec.span, 0, 2 * spec.span - 1).to(torch.int32).numpy())
