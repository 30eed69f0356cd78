"""One of several processes that share a job by number, as the pods of an indexed Kubernetes Job do."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from toolkit.client.bulk.encoder import Encoder
from toolkit.client.bulk.machine import memory_limit
from toolkit.client.bulk.part import PartResult, Work, Worker
from toolkit.errors import InputError, ServerError

__all__ = ["Shard"]

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Shard:
    """Shard ``index`` of ``count``: every ``count``-th part, by this process, with ``cpus`` CPUs and ``memory`` bytes
    (default: what the model needs). Shard 0 begins the job."""

    index: int
    count: int
    cpus: int = 1
    memory: int | None = None

    @classmethod
    def of(cls, text: str, cpus: int = 1, memory: int | None = None) -> Shard:
        """``2/8``; ``/8`` takes the index from ``JOB_COMPLETION_INDEX``. Raises `InputError`."""
        found = re.fullmatch(r"(\d*)/(\d+)", text)
        if not found:
            raise InputError(f"shard {text!r}: expected INDEX/COUNT, as 0/8, or /COUNT")
        index = found[1] or os.environ.get("JOB_COMPLETION_INDEX", "")
        if not index.isdecimal():
            raise InputError(f"shard {text!r} has no index, and JOB_COMPLETION_INDEX is {index!r}")
        if not int(index) < int(found[2]):
            raise InputError(f"shard {index}/{found[2]}: indices go from 0 to {int(found[2]) - 1}")
        return cls(int(index), int(found[2]), cpus, memory)

    @property
    def leads(self) -> bool:
        return self.index == 0

    def map(self, function: Callable[[T], U], items: Sequence[T]) -> Iterator[U]:
        with ThreadPoolExecutor(max(1, self.cpus)) as pool:
            yield from pool.map(function, items)

    @contextmanager
    def open(self, encoder: Encoder) -> Iterator[None]:
        """Nothing is needed but this process. Raises `ServerError` where the model has no room in it."""
        need, there = self.memory or encoder.memory, memory_limit()
        if need > there:
            raise ServerError(
                f"no room for a worker with {need / 1e6:,.0f} MB of memory, which {encoder.name} needs; this machine "
                f"or container has {there / 1e6:,.0f} MB"
            )
        yield

    def share(self, numbers: Sequence[int]) -> list[int]:
        return list(numbers[self.index :: self.count])

    def run(self, work: Work, numbers: Sequence[int]) -> Iterator[PartResult]:
        with Worker(work) as worker:
            for number in numbers:
                yield worker.embed(number)
