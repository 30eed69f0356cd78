"""The model of ``rerank`` as one TensorFlow module: tokenizer, pairs, encoder and the head that classifies."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import tensorflow as tf

from toolkit.encoder.batching_options import Batching
from toolkit.encoder.layers import ACTIVATION_FUNCTIONS
from toolkit.encoder.packing import Tokens
from toolkit.encoder.parameters import Parameters
from toolkit.encoder.precision.mixed import Plan
from toolkit.graph.model import TEXT, Outputs, Part, ServingModel, joined
from toolkit.graph.tasks.rerank import RerankSpec
from toolkit.signatures import DEFAULT_SIGNATURE, PairSignature
from toolkit.tokenizer import COMPILED, Engine

__all__ = ["RerankModel"]


class RerankModel(ServingModel):
    """A ``RerankSpec`` as TensorFlow functions. ``stages`` yields the scores before their activation."""

    def __init__(
        self,
        spec: RerankSpec,
        batching: Batching | None = None,
        tokenizer_engine: Engine = COMPILED,
        plan: Plan | None = None,
        fused_norm: bool = True,
    ) -> None:
        super().__init__(spec, batching, tokenizer_engine, plan, fused_norm)
        self._spec = spec
        self._head = Parameters(dict(spec.classifier.tensors))

        def classified() -> Callable[..., tf.Tensor]:
            params = self._head.named(self._head.read())
            return lambda hidden, chunk: spec.classifier.apply(params, hidden, chunk)

        self._logits = self.by_row(classified, spec.classifier.labels)
        self._packed = Part(self._packed_pairs, [TEXT, TEXT])
        self._score = Part(self._scores, [TEXT, TEXT])
        columns = [tf.TensorSpec([None], tf.string, name) for name in ("query", "document")]
        self._staged = Part(self._stages, columns)

    # parts of the graph

    def _packed_pairs(self, query: tf.Tensor, document: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Pairs, prompts before their queries, to packed ids, types and row splits, int32."""
        # Most requests have one query for many documents: it is tokenized once.
        queries, number = tf.unique(query)
        tokens = self.tokenizer.tokens(tf.concat([queries, document], 0))
        places = tf.range(tf.size(document)) + tf.size(queries)
        packed = self._spec.pairs.pack(tokens, number, places)
        return packed.ids, packed.type_ids, packed.row_splits

    def pair_tokens(self, query: tf.Tensor, document: tf.Tensor) -> Tokens:
        """Pairs, prompts before their queries, to packed tokens."""
        return self.tokens_of(*self._packed(query, document))

    def _scores(self, query: tf.Tensor, document: tf.Tensor) -> tf.Tensor:
        logits = self._logits(*self.pair_tokens(query, document).tensors())
        scores = ACTIVATION_FUNCTIONS[self._spec.activation](logits)
        return scores[:, 0] if self._spec.dim == 1 else scores

    def _stages(self, query: tf.Tensor, document: tf.Tensor) -> Outputs:
        query = joined(self._spec.prompt, query)
        return {"1_classifier": self._logits(*self.pair_tokens(query, document).tensors())}

    # signatures

    def _pair_signature(self, signature: PairSignature, query: tf.Tensor, document: tf.Tensor) -> Outputs:
        return {"score": self._score(joined(signature.prompt.text, query), document)}

    def _tokenize_pairs(self, query: tf.Tensor, document: tf.Tensor) -> Outputs:
        ids, types, splits = self._packed(joined(self._spec.prompt, query), document)
        input_ids, token_type_ids, mask = self.padded(splits, (ids, self.tokenizer.pad_id), (types, 0))
        return {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": token_type_ids}

    def functions(self) -> Mapping[str, Callable[..., Outputs]]:
        default, *_ = signed = {item.name: functools.partial(self._pair_signature, item) for item in self._spec.signed}
        return {DEFAULT_SIGNATURE: signed[default], **signed, "tokenize_pairs": self._tokenize_pairs}
