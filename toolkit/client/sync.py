"""`Client`: the vocabulary of `operations` for ordinary code."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from toolkit.client.job import Attempt, Job, Piece
from toolkit.client.operations import Operation, Progress, Sleep
from toolkit.client.options import TLS, Hedge, Retry, Split, Token
from toolkit.client.session import open_session
from toolkit.client.transport.interface import Connection, Outcome, Transport
from toolkit.client.transport.opening import open_sync
from toolkit.client.types import Array, Detailed, ModelMetadata, Ranked, Sparse, VersionStatus
from toolkit.errors import InputError
from toolkit.signatures import DEFAULT_SIGNATURE
from toolkit.sparse_signatures import SPARSE_SIGNATURE

__all__ = ["Client"]

T = TypeVar("T")


class Client:
    """A TF Serving model as functions, over gRPC or REST. Thread-safe; close it, or use it in ``with``.

    Parameters
    ----------
    url: ``grpc://host[:8500]``, ``grpcs://``, ``http://host[:80][/prefix]``, ``https://``, or ``host:port`` (gRPC).
    model: the served model's name; ``version`` (a number) or ``label`` choose a version, else the server does.
    timeout: seconds an attempt may take. The operations' ``deadline`` bounds a whole call, retries included.
    tls, token, metadata, compression (``"gzip"``): see `TLS`, `Token`; ``metadata`` becomes gRPC metadata or headers.
    split, retry, hedge: how big inputs are cut up and failures are met; see `Split`, `Retry`, `Hedge`.
    round_robin: spread requests over all addresses of the host's name (a headless service), not only the first.
    channels: gRPC connections to open; more than 1 where one HTTP/2 connection is the limit.
    proxies: ``False`` ignores the environment's (``http_proxy``, ...); loopback and unix addresses never have one.
    transport: replaces the network; any `Transport`.

    All operations raise subclasses of `ClientError` for what goes wrong at the server, and `InputError` for arguments.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float = 60.0,
        tls: TLS | None = None,
        token: Token | None = None,
        metadata: Mapping[str, str] | None = None,
        compression: str | None = None,
        split: Split | None = None,
        retry: Retry | None = None,
        hedge: Hedge | None = None,
        round_robin: bool = False,
        channels: int = 1,
        proxies: bool = True,
        transport: Transport | None = None,
    ) -> None:
        self.session = open_session(url, model, version, label, timeout, split, retry, hedge)
        connection = Connection(tls, token, metadata, compression, round_robin, channels, proxies)
        self._transport = transport or open_sync(self.session.address, connection)
        self._closed = False

    def embed(
        self,
        texts: Iterable[str],
        *,
        signature: str = DEFAULT_SIGNATURE,
        progress: Progress | None = None,
        deadline: float | None = None,
    ) -> Array:
        """Embeddings of ``texts``, float32 [n, dim], row i for text i. No texts give [0, dim].

        Those of a quantized ``signature`` are int8 or uint8, for bits [n, dim / 8].

        ``progress(done, total)`` is called as rows arrive; ``deadline`` bounds the whole call, in seconds.
        """
        return self.run(self.session.embed(texts, signature, progress), deadline)

    def embed_query(
        self, texts: Iterable[str], *, progress: Progress | None = None, deadline: float | None = None
    ) -> Array:
        """Like `embed`, by the signature ``embed_query`` (for models that treat queries in their own way)."""
        return self.run(self.session.embed(texts, "embed_query", progress), deadline)

    def embed_document(
        self, texts: Iterable[str], *, progress: Progress | None = None, deadline: float | None = None
    ) -> Array:
        """Like `embed`, by the signature ``embed_document``."""
        return self.run(self.session.embed(texts, "embed_document", progress), deadline)

    def embed_stream(self, texts: Iterable[str], *, signature: str = DEFAULT_SIGNATURE) -> Iterator[Array]:
        """Embeddings of any number of texts, read as they are needed: arrays [k, dim], in order, as they arrive."""
        for piece in self.pieces(self.run(self.session.stream(texts, signature))):
            yield piece.value["embedding"]

    def multi_vector(
        self,
        texts: Iterable[str],
        *,
        signature: str = "multi_vector",
        progress: Progress | None = None,
        deadline: float | None = None,
    ) -> list[NDArray[np.float32]]:
        """Vectors of each text's tokens, a list of float32 [vectors, dim], by a ragged signature. A text may have none.

        ``progress`` and ``deadline`` as for `embed`.
        """
        return self.run(self.session.multi_vector(texts, signature, progress), deadline)

    def multi_vector_query(
        self, texts: Iterable[str], *, progress: Progress | None = None, deadline: float | None = None
    ) -> list[NDArray[np.float32]]:
        """Like `multi_vector`, by the signature ``multi_vector_query``."""
        return self.run(self.session.multi_vector(texts, "multi_vector_query", progress), deadline)

    def multi_vector_document(
        self, texts: Iterable[str], *, progress: Progress | None = None, deadline: float | None = None
    ) -> list[NDArray[np.float32]]:
        """Like `multi_vector`, by the signature ``multi_vector_document``."""
        return self.run(self.session.multi_vector(texts, "multi_vector_document", progress), deadline)

    def detailed(
        self, texts: Iterable[str], *, progress: Progress | None = None, deadline: float | None = None
    ) -> Detailed:
        """Embeddings with each text's number of tokens and whether it was cut."""
        return self.run(self.session.detailed(texts, progress), deadline)

    def tokenize(
        self, texts: Iterable[str], *, progress: Progress | None = None, deadline: float | None = None
    ) -> dict[str, NDArray[np.int32]]:
        """``input_ids``, ``attention_mask``, ``token_type_ids``: int32 [n, length], padded to the longest text."""
        return self.run(self.session.tokenize(texts, progress), deadline)

    def sparse(
        self,
        texts: Iterable[str],
        *,
        signature: str = SPARSE_SIGNATURE,
        progress: Progress | None = None,
        deadline: float | None = None,
    ) -> Sparse:
        """Sparse vectors of ``texts``, row i for text i; ``csr()`` makes a scipy array of them.

        Queries and documents have signatures of their own where the model tells them apart: ``sparse_query``,
        ``sparse_document``. Where a server batches rows, take ``sparse_padded`` and the like: the answer is the same.
        """
        return self.run(self.session.sparse(texts, signature, progress), deadline)

    def rerank(
        self, query: str, documents: Iterable[str], *, top_k: int | None = None, deadline: float | None = None
    ) -> list[Ranked]:
        """``documents`` by falling score against ``query``, by the signature ``rerank``; at most ``top_k``."""
        return self.run(self.session.rerank(query, documents, top_k), deadline)

    def predict(
        self,
        inputs: Mapping[str, Any],
        *,
        signature: str = DEFAULT_SIGNATURE,
        outputs: Sequence[str] = (),
        deadline: float | None = None,
    ) -> dict[str, Array]:
        """One request to any signature: arrays in, arrays out (``outputs``: only these). Nothing is split.

        Plain Python numbers are sent as float32 and int32, arrays in the dtype they have. Numeric outputs over gRPC may
        be read-only views of the answer; strings are object arrays of bytes.
        """
        return self.run(self.session.predict(inputs, signature, outputs), deadline)

    def status(self) -> list[VersionStatus]:
        """The state of the model's versions."""
        return self.run(self.session.status())

    def metadata(self) -> ModelMetadata:
        """The signatures of the version that answers."""
        return self.run(self.session.metadata())

    def wait_until_ready(self, timeout: float = 60.0, *, interval: float = 0.2) -> ModelMetadata:
        """Wait until the model can answer; raises `DeadlineError` after ``timeout`` seconds."""
        return self.run(self.session.wait_until_ready(timeout, interval))

    def close(self) -> None:
        """End all connections; the client cannot be used any more. May be called twice."""
        if not self._closed:
            self._closed = True
            self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, operation: Operation[T], deadline: float | None = None) -> T:
        """Carry out an operation of `session`, within ``deadline`` seconds; for code beyond the vocabulary above."""
        until = self.session.until(deadline)
        try:
            effect = next(operation)
            while True:
                try:
                    self._do(effect, until)
                except Exception as error:
                    effect = operation.throw(error)
                else:
                    effect = operation.send(None)
        except StopIteration as stop:
            value: T = stop.value
            return value

    def _do(self, effect: Job | Sleep, until: float | None) -> None:
        if isinstance(effect, Sleep):
            time.sleep(effect.seconds)
            return
        effect.bound(until)
        for piece in self.pieces(effect):
            effect.deliver(piece)
            del piece  # frees the answer before the next one is waited for

    def pieces(self, job: Job) -> Iterator[Piece]:
        """The job's finished pieces, in order, as they come; leaving early cancels what is still under way."""
        if self._closed:
            raise InputError("this client is closed")
        inbox: SimpleQueue[tuple[Attempt, Outcome]] = SimpleQueue()
        clock = self.session.clock
        live = {}
        try:
            while not job.finished:
                for attempt in job.poll(clock()):
                    put = partial(_put, inbox, attempt)
                    live[attempt] = self._transport.start(attempt.request, attempt.timeout, put)
                if not live and job.finished:
                    break
                try:
                    attempt, outcome = inbox.get(timeout=job.wait(clock()))
                except Empty:
                    continue
                live.pop(attempt, None)
                for stale in job.resolve(attempt, outcome, clock()):
                    live.pop(stale)()
                del attempt, outcome
                yield from job.drain()
        finally:
            for cancel in live.values():
                cancel()


def _put(inbox: SimpleQueue[tuple[Attempt, Outcome]], attempt: Attempt, outcome: Outcome) -> None:
    inbox.put((attempt, outcome))
