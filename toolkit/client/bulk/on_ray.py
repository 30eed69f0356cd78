"""A job's parts made by Ray Data: each is an element of a dataset that a pool of actors maps to its result.

Ray moves part numbers out and results back, nothing else: texts and vectors go from file to file inside an actor. An
actor, a node or an object that is lost costs the parts that were under way there, which Ray has made again.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, NamedTuple, TypeVar

from toolkit import __version__
from toolkit.client.bulk.encoder import Encoder
from toolkit.client.bulk.part import PartResult, Work, Worker
from toolkit.errors import InputError, MissingExtraError, ServerError, ToolkitError, UnreachableError

__all__ = ["OnRay"]

T = TypeVar("T")
U = TypeVar("U")

_OBJECT_STORE = 256 << 20  # bytes of shared memory of a cluster that is started here, which holds numbers only
_AHEAD = 256  # tasks under way
_QUEUED = 1  # parts at an actor: none waits behind a long one


@dataclass(frozen=True)
class OnRay:
    """``address``: of a running cluster (``host:port``, or ``auto`` for the one that this machine belongs to);
    ``None``: one that is started here and stopped at the end. ``workers``: actors (default: as many as the cluster has
    room for when the run begins), of ``cpus`` CPUs and ``memory`` bytes each (default: what the model needs).

    Raises `MissingExtraError` where Ray is not installed."""

    address: str | None = None
    workers: int | None = None
    cpus: int = 1
    memory: int | None = None
    leads: bool = True

    def __post_init__(self) -> None:
        if find_spec("ray") is None:
            raise MissingExtraError("ray", "ray")
        for name in ("workers", "cpus", "memory"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; it must be at least 1")
        if self.address is not None and "://" in self.address:
            raise InputError(
                f"Ray address {self.address}: only host:port and auto are supported; run the command on a machine of "
                "the cluster, or submit it with: ray job submit -- sentence-serving embed ..."
            )

    def map(self, function: Callable[[T], U], items: Sequence[T]) -> Iterator[U]:
        """By tasks, wherever there is room, some hundreds at a time."""
        import ray

        task = ray.remote(num_cpus=1, max_retries=-1)(_outcome)
        shared = ray.put(function)
        waiting: list[Any] = []
        for place in range(len(items) + _AHEAD):
            if place < len(items):
                waiting.append(task.remote(shared, items[place]))
            if place >= _AHEAD and waiting:
                with self._cluster_errors():
                    outcome = ray.get(waiting.pop(0))
                yield _taken(outcome)

    @contextmanager
    def open(self, encoder: Encoder) -> Iterator[None]:
        # Ray reads these from the environment alone, when it is imported
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
        try:
            import ray
            import ray.data
        except ImportError:
            raise MissingExtraError("ray", "ray") from None
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        mine = not ray.is_initialized()
        if mine:
            self._connect(ray)
        try:
            self._require_room(ray, encoder)
            yield
        finally:
            if mine:
                ray.shutdown()

    def _connect(self, ray: Any) -> None:
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.address is None:
            try:
                ray.init(address="local", include_dashboard=False, object_store_memory=_OBJECT_STORE, **quiet)
            except Exception as error:  # Ray raises no other class where its processes do not start in time
                raise ServerError(f"Ray does not start on this machine: {_line(error)}") from None
            return
        if self.address != "auto":
            _require_listener(self.address)
        try:
            ray.init(address=self.address, **quiet)
        except ConnectionError as error:
            raise ServerError(f"no Ray cluster at {self.address}: {_line(error)}") from None
        except RuntimeError as error:
            if "ersion mismatch" in str(error):
                raise ServerError(f"the Ray cluster at {self.address} is of another version: {_line(error)}") from None
            raise ServerError(f"the Ray cluster at {self.address} cannot be used: {_line(error)}") from None

    def _require_room(self, ray: Any, encoder: Encoder) -> None:
        need = self._memory(encoder)
        nodes = _resources(ray)
        fits = [node for node in nodes if node.get("CPU", 0) >= self.cpus and node.get("memory", 0) >= need]
        if not fits:
            cpus = max((node.get("CPU", 0) for node in nodes), default=0)
            memory = max((node.get("memory", 0) for node in nodes), default=0)
            raise ServerError(
                f"no machine of the cluster has room for a worker of {self.cpus} CPUs and {need / 1e6:,.0f} MB of "
                f"memory, which {encoder.name} needs; the largest has {cpus:g} CPUs and {memory / 1e6:,.0f} MB"
            )

    def _memory(self, encoder: Encoder) -> int:
        return self.memory if self.memory is not None else encoder.memory

    def _size(self, ray: Any, encoder: Encoder) -> int:
        """Actors that the cluster has room for."""
        need = self._memory(encoder)
        nodes = _resources(ray)
        return sum(min(int(node.get("CPU", 0) // self.cpus), int(node.get("memory", 0) // need)) for node in nodes)

    def share(self, numbers: Sequence[int]) -> list[int]:
        return list(numbers)

    def run(self, work: Work, numbers: Sequence[int]) -> Iterator[PartResult]:
        if not numbers:
            return
        import ray

        size = min(len(numbers), self.workers or max(1, self._size(ray, work.encoder)))
        # Blocks that are there already: tasks that made them would want CPUs, which the actors hold to the end.
        parts = ray.data.from_items([{"number": number} for number in numbers], override_num_blocks=len(numbers))
        results = parts.map(
            _Actor,
            fn_constructor_args=(work, __version__),
            compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=_QUEUED),
            num_cpus=self.cpus,
            memory=self._memory(work.encoder),
        )
        rows = iter(results.iter_rows())
        while True:
            with self._cluster_errors():
                row = next(rows, None)
            if row is None:
                return
            yield _taken(row["result"])

    @contextmanager
    def _cluster_errors(self) -> Iterator[None]:
        """Turn what Ray raises about itself into `UnreachableError`; what our own code raises in a worker stays."""
        from ray.exceptions import RayError, RayTaskError

        try:
            yield
        except RayTaskError:
            raise
        except RayError as error:
            raise UnreachableError(f"the Ray cluster failed: {_line(error)}", address=self.address or "local") from None


def _resources(ray: Any) -> list[dict[str, float]]:
    """Of each machine of the cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


class _Actor:
    """What an actor runs. Errors travel as values: Ray would wrap those that are raised, and repeat the part."""

    def __init__(self, work: Work, version: str) -> None:
        self._work, self._version = work, version
        self._worker: Worker | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"result": _outcome(self._made, int(row["number"]))}

    def _made(self, number: int) -> PartResult:
        if self._worker is None:
            if self._version != __version__:
                raise ServerError(f"{_here()} has sentence-serving {__version__}, not {self._version} as the driver")
            self._worker = Worker(self._work)
        made = self._worker.embed(number)
        return replace(made, troubles=tuple(f"{_here()}: {trouble}" for trouble in made.troubles))


class _Failure(NamedTuple):
    """An error as it travels: not every one of ours can be pickled as it is."""

    kind: type[ToolkitError]
    words: tuple[Any, ...]
    fields: dict[str, Any]
    where: str


def _outcome(function: Callable[[T], U], item: T) -> U | _Failure:
    try:
        return function(item)
    except ToolkitError as error:
        return _Failure(type(error), error.args, dict(vars(error)), _here())


def _taken(outcome: Any) -> Any:
    """A result as it came, or the error raised here, with the worker's name."""
    if not isinstance(outcome, _Failure):
        return outcome
    error = outcome.kind.__new__(outcome.kind, *outcome.words)
    vars(error).update(outcome.fields)
    error.add_note(outcome.where)
    raise error


def _here() -> str:
    return f"worker {os.getpid()} on {socket.gethostname()}"


def _require_listener(address: str) -> None:
    """Ray itself waits for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"Ray address {address!r}: expected host:port or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), 5).close()
    except OSError as error:
        raise ServerError(f"no Ray cluster at {address}: {error.strerror or error}") from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
