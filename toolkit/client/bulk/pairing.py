"""Rows and answers brought together again: each vector meets its own row."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from toolkit.client.bulk.rows import Row
from toolkit.client.bulk.sinks import Batch
from toolkit.client.job import Piece
from toolkit.errors import RejectedError

__all__ = ["Pairing", "Refused", "too_many"]


@dataclass(frozen=True)
class Refused:
    """An input row without embedding, and why."""

    row: int
    text: str | None
    reason: str

    def line(self) -> bytes:
        """The row as the side file has it."""
        return json.dumps(vars(self), ensure_ascii=False).encode() + b"\n"


def too_many(count: int, allowed: int, last: Refused | None, model: str) -> RejectedError:
    """The error of a run with more rows without embedding than allowed."""
    example = f"; the last is row {last.row}: {last.reason}" if last else ""
    return RejectedError(f"{count} rows cannot be embedded, more than the {allowed} allowed{example}", model=model)


class Pairing:
    """Keeps the rows that were read until their pieces arrive, so that each vector meets its own row."""

    def __init__(self, rows: Iterator[Row], start: int) -> None:
        self._rows = rows
        self._waiting: deque[Row] = deque()
        self._start = start

    def texts(self) -> Iterator[bytes]:
        for row in self._rows:
            self._waiting.append(row)
            if row.text is not None:
                yield row.text.encode()

    def batch(self, piece: Piece) -> tuple[Batch, list[Refused]]:
        """The rows up to the piece's last one, unusable ones between them included."""
        rows: list[Row] = []
        places: list[int] = []
        refused: list[Refused] = []
        left = piece.stop - piece.start
        while left:
            row = self._waiting.popleft()
            number = self._start + len(rows)
            if row.text is None:
                refused.append(Refused(number, None, row.problem or ""))
            elif piece.error is not None:
                refused.append(Refused(number, row.text, piece.error.message))
            usable = row.text is not None and piece.error is None
            places.append(piece.stop - piece.start - left if usable else -1)
            left -= row.text is not None
            rows.append(row)
        return self._made(rows, places, piece), refused

    def rest(self) -> tuple[Batch, list[Refused]]:
        """Unusable rows behind the last usable one."""
        rows = list(self._waiting)
        self._waiting.clear()
        refused = [Refused(self._start + i, None, row.problem or "") for i, row in enumerate(rows)]
        return self._made(rows, [-1] * len(rows), None), refused

    def _made(self, rows: list[Row], places: list[int], piece: Piece | None) -> Batch:
        outputs = piece.value if piece is not None and piece.error is None else {}
        batch = Batch(self._start, rows, places, outputs)
        self._start += len(rows)
        return batch
