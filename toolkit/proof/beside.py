"""The tokenizer's part of a proof, beside the artifact's: neither needs the other, and together they take both CPUs."""

from __future__ import annotations

import functools
import operator
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from toolkit.errors import CheckError
from toolkit.tokenizer import TokenizerSpec, self_check

if TYPE_CHECKING:
    from toolkit.tokenizer.graph import TokenizerGraph
    from toolkit.tokenizer.selfcheck import TokenizerReport

__all__ = ["tokenizer_checked"]

Progress = Callable[[int, int], None]


class _LeftError(Exception):
    """The block was left: nobody waits for the report any more."""


@contextmanager
def tokenizer_checked(
    tokenizers: Sequence[tuple[TokenizerSpec, TokenizerGraph]],
    *,
    sample: float,
    progress: Progress,
    on_failure: Callable[[], None],
) -> Iterator[Future[TokenizerReport]]:
    """Run ``self_check`` of each of a model's ``tokenizers`` in a thread while the block runs; the future has its
    report, of all together.

    ``on_failure`` is called at once when it fails, to end what the block waits for. Whatever the block raises then, a
    difference between tokenizers is what is told, since it explains the others: ``CheckError``. ``progress`` is called
    from the thread. A block that is left by an exception ends the check as well.
    """
    left = threading.Event()

    def moved(done: int, total: int) -> None:
        if left.is_set():
            raise _LeftError
        progress(done, total)

    def checked() -> TokenizerReport:
        reports = [self_check(spec, graph, sample=sample, progress=moved) for spec, graph in tokenizers]
        return functools.reduce(operator.add, reports)

    with ThreadPoolExecutor(1, "tokenizer") as pool:
        report = pool.submit(checked)
        report.add_done_callback(lambda ended: on_failure() if ended.exception() else None)
        try:
            yield report
        except Exception:
            left.set()
            if isinstance(reason := report.exception(), CheckError):
                raise reason from None
            raise
        finally:
            left.set()
