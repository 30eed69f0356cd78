"""The model of ``rerank`` as one TensorFlow module: tokenizer, pairs, encoder and the head that scores."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from toolkit.corpus.check import as_pair
from toolkit.encoder.layers import ACTIVATION_FUNCTIONS
from toolkit.encoder.layout import Layout
from toolkit.encoder.packing import Chunk, Tokens
from toolkit.encoder.parameters import Parameters
from toolkit.graph.model import Outputs, Part, ServingModel
from toolkit.graph.tasks.rerank import RerankSpec
from toolkit.signatures import DEFAULT_SIGNATURE, PairSignature
from toolkit.tokenizer.pairs import PackedPairs

__all__ = ["RerankModel"]


class RerankModel(ServingModel):
    """A ``RerankSpec`` as TensorFlow functions. ``stages`` yields the scores before their activation."""

    def __init__(self, spec: RerankSpec, layout: Layout = Layout()) -> None:
        super().__init__(spec, layout)
        self._spec = spec
        self._head = Parameters(dict(spec.head.tensors))

        self._logits = self.by_row(self._scored, spec.head.labels, spec.head.asked)
        of_rows = [tf.TensorSpec([None], dtype) for dtype in spec.pairs.columns]
        self._rows = Part(self.on_host(self._packed_rows), of_rows)
        columns = [tf.TensorSpec([None], tf.string, name) for name in ("query", "document")]
        self._staged = Part(self.on_host(self._stages), columns)

    # parts of the graph

    def _scored(self) -> Callable[[tf.Tensor, Chunk], tf.Tensor]:
        params, head = self._head.named(self._head.read()), self._spec.head
        return lambda hidden, chunk: head.apply(params, hidden, chunk)

    def tried_tokens(self, rows: Sequence[str]) -> Tokens:
        columns = zip(*(as_pair(row) for row in rows), strict=True)
        query, document = (tf.constant([text.encode() for text in column]) for column in columns)
        return self.tokens_of(*self.packed_pairs(self._spec.prompt, query, document))

    def tried_answers(self) -> Callable[[tf.Tensor, Chunk], tf.Tensor]:
        scored, activation = self._scored(), ACTIVATION_FUNCTIONS[self._spec.activation]
        return lambda hidden, chunk: activation(scored(hidden, chunk))

    def _packed_rows(self, *columns: tf.Tensor) -> PackedPairs:
        return self._spec.pairs.rows(self.tokenizer, *columns)

    def packed_pairs(self, prompt: str, query: tf.Tensor, document: tf.Tensor) -> PackedPairs:
        """Pairs of strings, with ``prompt``, to packed ids and types, and row splits."""
        return PackedPairs(*self._rows(*self._spec.pairs.prompted(prompt, query, document)))

    def logits(self, prompt: str, query: tf.Tensor, document: tf.Tensor) -> tf.Tensor:
        """The scores of pairs before their activation, float32 ``[batch, labels]``."""
        return self._logits(*self.tokens_of(*self.packed_pairs(prompt, query, document)).tensors())

    def scores(self, prompt: str, query: tf.Tensor, document: tf.Tensor) -> tf.Tensor:
        """What ``predict`` gives of them, float32 ``[batch]``, or ``[batch, labels]`` where there are several."""
        scores = ACTIVATION_FUNCTIONS[self._spec.activation](self.logits(prompt, query, document))
        return scores[:, 0] if self._spec.dim == 1 else scores

    def _stages(self, query: tf.Tensor, document: tf.Tensor) -> Outputs:
        return {self._spec.stages[0]: self.logits(self._spec.prompt, query, document)}

    # signatures

    def _pair_signature(self, signature: PairSignature, query: tf.Tensor, document: tf.Tensor) -> Outputs:
        return {"score": self.scores(signature.prompt.text, query, document)}

    def _tokenize_pairs(self, query: tf.Tensor, document: tf.Tensor) -> Outputs:
        ids, types, splits = self.packed_pairs(self._spec.prompt, query, document)
        input_ids, token_type_ids, mask = self.padded(splits, (ids, self.tokenizer.pad_id), (types, 0))
        return {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": token_type_ids}

    def functions(self) -> Mapping[str, Callable[..., Outputs]]:
        default, *_ = signed = {item.name: functools.partial(self._pair_signature, item) for item in self._spec.signed}
        return {DEFAULT_SIGNATURE: signed[default], **signed, "tokenize_pairs": self._tokenize_pairs}
