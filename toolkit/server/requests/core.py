"""What the two APIs have in common: requests in terms of models and arrays, answers in the same.

The fronts turn wire formats into calls of `Core` and its errors into statuses; nothing here knows gRPC or HTTP.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from toolkit.server.models.manager import ModelManager
from toolkit.server.models.servable import DEFAULT_SIGNATURE, Servable, Signature, count_rows
from toolkit.server.requests.status import Code, ServingError, invalid
from toolkit.server.watching.metrics import Metrics, Run

__all__ = ["Admission", "Answer", "Core", "ModelRef", "gone"]

Array = npt.NDArray[Any]
Entrypoint = Literal["GRPC", "REST"]


@dataclass(frozen=True)
class ModelRef:
    """Which model a request means."""

    name: str
    version: int | None = None
    label: str | None = None
    """Set but empty, it is still a label, and an unknown one."""


@dataclass(frozen=True)
class Answer:
    """Outputs by alias in sorted order, and what produced them."""

    outputs: Mapping[str, Array]
    signature: Signature
    version: int
    run: Run


def gone() -> ServingError:
    """The end of a request whose caller no longer waits for the answer: nobody reads it, but it is counted."""
    return ServingError(Code.CANCELLED, "The client has gone")


class Admission:
    """A limit on calls at once: ``with admission:`` counts one in and out.

    Raises `ServingError` RESOURCE_EXHAUSTED where there are too many.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self.calls = 0

    def __enter__(self) -> None:
        with self._lock:
            if self.calls >= self._limit:
                raise ServingError(
                    Code.RESOURCE_EXHAUSTED, f"More than {self._limit} concurrent calls; try again later"
                )
            self.calls += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.calls -= 1


class Core:
    """Runs requests against the models of a manager, within the limits, and counts them."""

    def __init__(self, manager: ModelManager, metrics: Metrics, *, max_rows: int = 0) -> None:
        self.manager = manager
        self.metrics = metrics
        self.draining = False
        self._max_rows = max_rows

    @contextmanager
    def leased(self, model: ModelRef) -> Iterator[Servable]:
        """The servable for a request. Raises `ServingError` NOT_FOUND or INVALID_ARGUMENT."""
        servable = self.manager.lease(model.name, model.version, model.label)
        try:
            yield servable
        finally:
            servable.release()

    def predict(
        self,
        servable: Servable,
        signature_name: str,
        given: Iterable[str],
        inputs: Callable[[], Mapping[str, Array]],
        output_filter: Iterable[str] = (),
        awaited: Callable[[], bool] = lambda: True,
    ) -> Answer:
        """Runs a signature. ``given`` are the input aliases, ``inputs`` decodes them once they are known to be right.

        ``awaited`` says whether the caller is still there.

        Raises `ServingError` in TF Serving's order of checks.
        """
        signature = servable.signature(signature_name)
        if signature is None:
            raise ServingError(
                Code.FAILED_PRECONDITION, f'Serving signature key "{signature_name or DEFAULT_SIGNATURE}" not found.'
            )
        servable.check_inputs(signature, given)
        arrays = inputs()
        outputs = servable.select(signature, output_filter)
        if not awaited():
            raise gone()
        return self.run(servable, signature, arrays, outputs)

    def run(
        self, servable: Servable, signature: Signature, arrays: Mapping[str, Array], outputs: tuple[str, ...]
    ) -> Answer:
        """Runs a signature on checked arguments; measures rows, bytes and times."""
        rows = count_rows(arrays.values())
        if self._max_rows and rows > self._max_rows:
            raise invalid(f"The request has {rows} rows; at most {self._max_rows} are accepted")
        result, timing = servable.run(signature, arrays, outputs)
        run = Run(signature.name, rows, sum(map(_size, arrays.values())), sum(map(_size, result.values())), *timing)
        return Answer(result, signature, servable.version, run)

    def count(
        self, model: str, api: str, entrypoint: Entrypoint, code: Code, started: float, run: Run | None = None
    ) -> float:
        """Counts a finished request; returns its seconds."""
        seconds = time.perf_counter() - started
        known = model if model in self.manager.names() else ""
        self.metrics.request(known, api, entrypoint, code.name, seconds, run)
        return seconds


def _size(array: Array) -> int:
    return 16 * array.size if array.dtype == np.object_ else array.nbytes
