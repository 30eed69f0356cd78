"""The model of ``sparse`` as one TensorFlow module: tokenizer, encoder, its head, pooling over tokens, and the forms of
a sparse vector."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from toolkit.encoder.layout import Layout
from toolkit.encoder.packing import Chunk, Tokens, row_of_token
from toolkit.encoder.parameters import Parameters
from toolkit.graph.guard import with_embeddings
from toolkit.graph.model import TEXT, Outputs, Part, TextModel, joined
from toolkit.graph.tasks.sparse import SparseSpec, StaticWeights
from toolkit.heads.sparse import compacted, expanded, flat, largest, padded
from toolkit.heads.splade import Splade
from toolkit.sparse_signatures import DENSE, FLAT, SparseSignature
from toolkit.tokenizer.steps import AddSpecialTokens

__all__ = ["SparseModel"]


class SparseModel(TextModel):
    """A ``SparseSpec`` as TensorFlow functions. ``stages`` yields the encoder's hidden states, padded: of one without
    layers the weight of each token."""

    def __init__(self, spec: SparseSpec, layout: Layout = Layout()) -> None:
        super().__init__(spec, layout)
        self._spec = spec
        if (way := spec.splade) is not None:
            head = dict(way.masked_lm.tensors)
            if layout.plan is not None and way.masked_lm.tied:  # the encoder's own table is then of fewer bits
                head["words"] = spec.encoder.parameters()["embeddings/word"]
            self._head = Parameters(head)
            self._pooling = functools.partial(self._pooling_of, way)
            # What goes through a batch has the width of the texts in it that have most, and not the vocabulary's.
            self._compact = self._together(self._compact_tokens, None, counted=False)
            self._encoded = Part(self.on_host(self._encode_text), [TEXT])
        if spec.static is not None:
            if spec.splade is not None:  # else the encoder has them
                self._weights = tf.Variable(spec.static.weights, trainable=False, name="static")
            self._counted = Part(self.on_host(functools.partial(self._count_text, spec.static)), [TEXT])
        self._staged = Part(self.on_host(self._stages), [tf.TensorSpec([None], tf.string, "text")])

    # parts of the graph

    def tried_tokens(self, rows: Sequence[str]) -> Tokens:
        return self.text_tokens(joined(self._spec.prompt, tf.constant([row.encode() for row in rows])))[0]

    def tried_answers(self) -> Callable[[tf.Tensor, Chunk], tf.Tensor]:
        return self._pooling()

    def _pooling_of(self, way: Splade) -> Callable[[tf.Tensor, Chunk], tf.Tensor]:
        params = self._head.named(self._head.read())
        if "words" not in params:
            params["words"] = self.encoder_parameters()["embeddings/word"]
        return lambda hidden, chunk: way.apply(params, hidden, chunk)

    def _compact_tokens(self, *packed: tf.Tensor) -> tf.Tensor:
        return self._compacted(self.rows(Tokens(*packed), self._pooling, self._spec.dim))

    def _compacted(self, vectors: tf.Tensor) -> tf.Tensor:
        return compacted(vectors if self._spec.most is None else largest(vectors, self._spec.most))

    def _encode_text(self, text: tf.Tensor) -> tf.Tensor:
        return self._compact(*self.text_tokens(text)[0].tensors())

    def _count_text(self, static: StaticWeights, text: tf.Tensor) -> tf.Tensor:
        """Strings to what ``compacted`` makes of their vectors, by the weights of the tokens that occur."""
        side = self._spec.tokenizer.truncation_side
        packed = AddSpecialTokens((), (), static.max_length, side).apply(self.tokenizer.tokens(text))
        ids = with_embeddings(packed.ids, self._spec.tokenizer, self._spec.dim)
        place = tf.stack([row_of_token(packed.row_splits), ids], 1)
        shape = tf.stack([tf.size(packed.num_tokens), self._spec.dim])
        occurs = tf.scatter_nd(place, tf.ones_like(ids), shape) > 0
        weights = self._weights if self._spec.splade else self.encoder_parameters()["embeddings/word"][:, 0]
        return self._compacted(tf.ensure_shape(tf.where(occurs, weights, 0.0), [None, self._spec.dim]))

    # signatures

    def _text_signature(self, signature: SparseSignature, text: tf.Tensor) -> Outputs:
        compact = (self._counted if signature.static else self._encoded)(joined(signature.prompt.text, text))
        if signature.form == DENSE:
            return {"embedding": expanded(compact, self._spec.dim)}
        return flat(compact) if signature.form == FLAT else padded(compact, self._spec.most)

    def _stages(self, text: tf.Tensor) -> Outputs:
        tokens, _ = self.text_tokens(joined(self._spec.prompt, text))
        hidden, _ = self.padded(tokens.row_splits, (self._hidden(*tokens[:4]), 0.0))
        return {"hidden": hidden}

    def functions(self) -> Mapping[str, Callable[..., Outputs]]:
        texts = {item.name: functools.partial(self._text_signature, item) for item in self._spec.texts}
        return {**texts, "tokenize": self._tokenize_signature}
