"""What turns texts into vectors: a served model here; `toolkit.artifact.session` has the other, an artifact."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from toolkit.client.bulk.plan import Plan
from toolkit.client.bulk.run import bulk_job
from toolkit.client.job import Piece
from toolkit.client.sync import Client
from toolkit.client.types import ModelMetadata

__all__ = ["Embed", "Encoder", "Served"]

# texts in UTF-8 -> pieces that cover them, in order, each with the plan's outputs or the error of one row
Embed = Callable[[Iterator[bytes]], Iterator[Piece]]


class Encoder(Protocol):
    """A model wherever it is: a value that travels to every worker.

    ``name``: its address or path; ``model``: its name; ``version``: the chosen one, ``None`` for whichever answers;
    ``digest``: that of its files, where they are at hand; ``memory``: the bytes that a worker needs.
    """

    @property
    def name(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def version(self) -> int | None: ...
    @property
    def digest(self) -> str | None: ...
    @property
    def memory(self) -> int: ...

    def metadata(self, version: int | None) -> ModelMetadata:
        """What the model says of itself. ``version``: the only one that will do; ``None``: the caller's choice.

        Raises `ClientError` or `ArtifactError`; `ModelNotFoundError` without that version.
        """
        ...

    def open(self, plan: Plan, patience: float, cpus: int) -> AbstractContextManager[Embed]:
        """The model made ready, in this process, for ``cpus`` CPUs."""
        ...


@dataclass(frozen=True)
class Served:
    """A served model, asked by the bundled `Client`; ``options`` are further arguments of it."""

    url: str
    model: str
    version: int | None = None
    label: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    memory: int = 512 << 20
    digest: None = None

    @property
    def name(self) -> str:
        return self.url

    def client(self, version: int | None = None) -> Client:
        """A client of this model, in this version or else the chosen one."""
        if version is not None:
            return Client(self.url, self.model, version=version, **self.options)
        return Client(self.url, self.model, version=self.version, label=self.label, **self.options)

    def metadata(self, version: int | None) -> ModelMetadata:
        with self.client(version) as client:
            return client.metadata()

    @contextmanager
    def open(self, plan: Plan, patience: float, cpus: int) -> Iterator[Embed]:
        with self.client(plan.version) as client:
            yield lambda texts: client.pieces(bulk_job(client, texts, plan, patience))
