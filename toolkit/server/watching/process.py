"""What the server asks of its process: memory given back, a short garbage collection, a CPU for the front."""

from __future__ import annotations

import ctypes
import gc
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Front", "return_memory", "settle"]


def settle() -> None:
    """Collects garbage, and keeps the collector away from all that is left; for when models were loaded or freed.

    TensorFlow's modules and graphs are a million objects that stay. A full collection looks at each of them, 0.2 s in
    which no request is worked on, once in some thousand requests; it is done here instead. Objects of the whole process
    are kept away; those of them that become garbage in cycles are found by the next call.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def return_memory() -> None:
    """Gives back what loading and first runs used for a moment; the C library would keep it.

    For all-MiniLM-L6-v2 that is as much as its weights: the checkpoint's buffers, and what the optimizer needed.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


class Front:
    """The CPU on which the threads that talk to clients stay, where the kernel can keep them there.

    Python runs one of them at a time. If the next one in turn is on another CPU, waking it there costs several times as
    much as its turn. The graph's threads are TensorFlow's own and go where they want.
    """

    def __init__(self, *, pinned: bool) -> None:
        self.cpu: int | None = None
        """The CPU's number; None if threads are not pinned."""
        if pinned and hasattr(os, "sched_setaffinity"):
            allowed = os.sched_getaffinity(0)
            if len(allowed) > 1:
                # Servers on the same machine, each process 1 of its container, should not all choose the same.
                self.cpu = random.choice(sorted(allowed))

    @contextmanager
    def threads(self) -> Iterator[None]:
        """Threads that are started in here, and those that they start, are of the front."""
        if self.cpu is None:
            yield
            return
        before = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, {self.cpu})
        except OSError:  # forbidden in this container
            self.cpu = None
            yield
            return
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)
