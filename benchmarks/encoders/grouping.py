"""Length sorting, as a caller of a library that pads would do it: rows sorted by length, encoded in groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Grouping", "candidates"]

Rows = npt.NDArray[np.int64]

ROWS = (1, 2, 4, 8, 16, 32)
TOKENS = (256, 512, 1024)


@dataclass(frozen=True)
class Grouping:
    """Groups of at most ``size`` rows, or with ``by_tokens`` of at most ``size`` padded tokens (one row at least)."""

    size: int
    by_tokens: bool = False

    def __str__(self) -> str:
        return f"groups of {self.size} {'tokens' if self.by_tokens else 'rows'}"

    def groups(self, lengths: Rows) -> list[Rows]:
        """Row numbers, group by group; each row once."""
        order = np.argsort(lengths, kind="stable")
        found: list[Rows] = []
        start = 0
        while start < len(order):
            stop = start + 1
            while stop < len(order) and self._fits(stop + 1 - start, int(lengths[order[stop]])):
                stop += 1
            found.append(order[start:stop])
            start = stop
        return found

    def _fits(self, rows: int, longest: int) -> bool:
        return rows * (longest if self.by_tokens else 1) <= self.size


def candidates(batch: int) -> list[Grouping]:
    """The groupings worth trying for requests of ``batch`` rows."""
    found = [Grouping(rows) for rows in ROWS if rows <= batch]
    if batch > 1:
        found += [Grouping(tokens, by_tokens=True) for tokens in TOKENS if tokens <= 64 * batch]
    return found
