"""What the proofs of all tasks have in common; each is a class in :mod:`toolkit.proof.tasks`."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, TypedDict

from toolkit.corpus.check import check_texts
from toolkit.proof.comparison import Arrays, Bounds, CheckReport
from toolkit.source.checkpoint import Checkpoint

__all__ = ["Batch", "Call", "TaskProof", "TextProof"]

BATCH_SIZES = (32, 7, 2)

Call = tuple[str, str | None]
"""A function of the artifact, and the one whose outputs it is given (``None``: the batch's inputs)."""


class Batch(TypedDict):
    """What the artifact is asked: texts by column, and the functions that are called of them."""

    inputs: dict[str, list[str]]
    calls: list[Call]


class TaskProof(ABC):
    """The proof of one artifact of a task: what it is asked, what the original answers, how the two are compared.

    Its ``rows`` are asked for in shuffled batches of several sizes, then each alone: neighbours and padding must not
    change a row.
    """

    def __init__(self, rows: int) -> None:
        order = list(range(rows))
        shuffle = random.Random(0)
        self.batches: list[list[int]] = []
        for size in BATCH_SIZES:
            mixed = list(order)
            shuffle.shuffle(mixed)
            self.batches += [mixed[start : start + size] for start in range(0, rows, size)]
        self.batches += [[row] for row in order]
        self._first_pass = -(-rows // BATCH_SIZES[0])

    def requests(self) -> list[Batch]:
        """All that the artifact is asked, batch by batch."""
        return [self.batch(rows, first=number < self._first_pass) for number, rows in enumerate(self.batches)]

    def answered(self, arrays: Arrays) -> Iterator[tuple[list[int], Arrays]]:
        """The rows of each batch, and the artifact's answers by ``<function>/<output>``."""
        outputs: dict[int, Arrays] = {}
        for key, value in arrays.items():
            number, name = key.split("/", 1)
            outputs.setdefault(int(number), {})[name] = value
        for index, rows in enumerate(self.batches):
            yield rows, outputs[index]

    @abstractmethod
    def batch(self, rows: Sequence[int], *, first: bool) -> Batch:
        """What the artifact is asked of these rows; ``first``: in the first pass over all of them."""

    @abstractmethod
    def references(self) -> Any:
        """The original's answers, as ``compare`` takes them. Raises ``SourceError`` if it cannot answer."""

    @abstractmethod
    def compare(self, references: Any, arrays: Arrays, bounds: Bounds) -> CheckReport:
        """The artifact's answers, as ``artifact_runner`` names them, against the original's."""


class TextProof(TaskProof):
    """The proof of a task of one text a row: the caller's, or the built-in ones for the model's longest."""

    def __init__(self, checkpoint: Checkpoint, texts: Sequence[str] | None) -> None:
        self._checkpoint = checkpoint
        self._texts = list(texts) if texts is not None else check_texts(checkpoint.tokenizer.max_length or 512)
        super().__init__(len(self._texts))
