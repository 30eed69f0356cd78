"""Ctrl-C at a time at which it would leave something behind that nobody can end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["interrupts_later"]


@contextmanager
def interrupts_later() -> Iterator[None]:
    """Let what SIGINT does happen behind the block instead of within it.

    For a few microseconds of work in other libraries, which a ``KeyboardInterrupt`` in the middle breaks: in gRPC, for
    example, a call that is made but not watched yet, for which closing its channel then waits for ever. Signals are
    handled by the main thread alone, and only where Python code does so is there anything to put off.
    """
    handler = signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None
    if not callable(handler):
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            handler(*came[-1])
