"""RoBERTa (Liu et al. 2019, arXiv:1907.11692) and what computes alike: XLM-RoBERTa, CamemBERT, data2vec.

BERT, but for the positions: they count the tokens that are not padding, from one above the padding token's id on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from toolkit.encoder.families.bert import BertSpec, bert_fields
from toolkit.encoder.fields import Fields

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.source.checkpoint import RawModule

__all__ = ["CountedPositions", "RobertaSpec"]


@dataclass(frozen=True, kw_only=True)
class CountedPositions(BertSpec):
    """Positions as fairseq numbers them, and transformers' ``create_position_ids_from_input_ids``.

    A padding token that is written out in a text has the position ``pad_id``, and is not counted.
    """

    any_mask: ClassVar = False

    pad_id: int

    @property
    def max_length(self) -> int:
        return self.max_positions - self.pad_id - 1

    def positions(self, ids: tf.Tensor, columns: tf.Tensor, row_splits: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        counted = tf.cast(tf.not_equal(ids, self.pad_id), tf.int32)
        total = tf.cumsum(counted)
        before = tf.gather(tf.concat([[0], total], 0), row_splits[:-1])
        return (total - tf.repeat(before, row_splits[1:] - row_splits[:-1])) * counted + self.pad_id


@dataclass(frozen=True, kw_only=True)
class RobertaSpec(CountedPositions):
    """The four are the same encoder, trained on different texts."""

    model_types: ClassVar[tuple[str, ...]] = ("roberta", "xlm-roberta", "camembert", "data2vec-text")
    title: ClassVar[str] = "RoBERTa, XLM-RoBERTa, CamemBERT, data2vec"

    @classmethod
    def read(cls, module: RawModule) -> Self:
        numbers, fields = bert_fields(module), Fields(module)
        pad_id = fields.index("pad_token_id", numbers["max_positions"] - 1)
        return cls(pad_id=pad_id, type_vocab_size=fields.positive("type_vocab_size"), **numbers)
