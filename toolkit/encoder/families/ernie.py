"""ERNIE 2.0 (Sun et al. 2019, arXiv:1907.12412), as transformers' ``ErnieModel`` computes it: BERT, with tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from toolkit.encoder.families.bert import BertSpec, bert_fields
from toolkit.encoder.fields import Fields
from toolkit.encoder.weights import Weights

if TYPE_CHECKING:
    from toolkit.source.checkpoint import RawModule

__all__ = ["ErnieSpec"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ErnieSpec(BertSpec):
    """``task_types`` are the rows of the table of tasks, 0 where there is none. Nobody but task 0 is ever asked for."""

    model_types: ClassVar[tuple[str, ...]] = ("ernie",)
    title: ClassVar[str] = "ERNIE"

    task_types: int

    @classmethod
    def read(cls, module: RawModule) -> Self:
        fields = Fields(module)
        tasks = fields.positive("task_type_vocab_size") if fields.flag("use_task_id") else 0
        types = fields.positive("type_vocab_size")
        return cls(task_types=tasks, type_vocab_size=types, **bert_fields(module))

    def tables(self, weights: Weights, size: int) -> dict[str, Array]:
        found = super().tables(weights, size)
        if self.task_types:
            shape = (self.task_types, size)
            found["embeddings/task"] = weights.take("embeddings.task_type_embeddings.weight", shape)
        return found

    def derived(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        p = dict(stored)
        if self.task_types:
            # every token has type and task, and the task is always 0: one table instead of two
            p["embeddings/type"] = p["embeddings/type"] + p.pop("embeddings/task")[0]
        return p
