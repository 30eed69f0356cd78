"""The record of a request, as workers write it and the measurement reads it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["RECORD", "Records", "make_records"]

# Times are seconds from the start of the run. ``status`` is an index into the worker's table of statuses; 0 is OK.
RECORD = np.dtype(
    [
        ("intended", "f8"),
        ("sent", "f8"),
        ("end", "f8"),
        ("status", "u2"),
        ("target", "u2"),
        ("attempts", "u2"),
        ("rows", "u4"),
        ("tokens", "u4"),
    ]
)

Records = NDArray[Any]


def make_records(intended: Any, sent: Any, end: Any, *, status: Any = 0, target: Any = 0, rows: Any = 1,
                 tokens: Any = 0, attempts: Any = 1) -> Records:  # fmt: skip
    """Records from columns, for tests and for generators other than ours."""
    records = np.zeros(len(np.atleast_1d(intended)), RECORD)
    columns = {
        "intended": intended,
        "sent": sent,
        "end": end,
        "status": status,
        "target": target,
        "rows": rows,
        "tokens": tokens,
        "attempts": attempts,
    }
    for name, column in columns.items():
        records[name] = column
    return records
