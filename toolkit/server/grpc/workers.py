"""The threads that gRPC's calls run on."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

__all__ = ["Workers"]

log = logging.getLogger("sentence_serving")


class _Call:
    """Work in a thread. What is to be called at its end is called once, at once if that was before."""

    __slots__ = ("_callbacks", "_done")

    def __init__(self) -> None:
        self._done = False
        self._callbacks: list[Callable[[Any], object]] = []

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        self._callbacks.append(callback)
        if self._done:
            self.end()

    def end(self) -> None:
        self._done = True
        while self._callbacks:
            try:
                callback = self._callbacks.pop()
            except IndexError:  # the other thread has it
                return
            callback(self)


class Workers(Executor):
    """Threads for `grpc.server`, which wants no more of a call's future than to be told of its end.

    A thread pool's own futures come with a lock, a condition and a result that nobody asks for; without them an empty
    call takes a tenth less of the CPU. All threads begin here, on the CPUs of the thread that makes the object.
    """

    def __init__(self, count: int) -> None:
        self._calls: queue.SimpleQueue[tuple[_Call, Callable[..., object], tuple[Any, ...]] | None]
        self._calls = queue.SimpleQueue()
        self._count = count
        self._over = False
        for number in range(count):
            threading.Thread(target=self._work, name=f"grpc_{number}", daemon=True).start()

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **_: Any) -> Future[Any]:
        """Runs ``function`` in the next free thread. Raises ``RuntimeError`` after `shutdown`."""
        if self._over:
            raise RuntimeError("cannot schedule new calls after shutdown")
        call: Any = _Call()
        self._calls.put((call, function, arguments))
        return call  # type: ignore[no-any-return]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the threads when all calls have ended; does not wait for that."""
        if not self._over:
            self._over = True
            for _ in range(self._count):
                self._calls.put(None)

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            call, function, arguments = item
            try:
                function(*arguments)
            except BaseException:  # gRPC answers for what handlers raise; this is what is left
                log.exception("a gRPC call")
            finally:
                call.end()
            del item, call, function, arguments  # a thread that waits keeps no request in memory
