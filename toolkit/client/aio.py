"""`AsyncClient`: the vocabulary of `operations` for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from toolkit.client.job import Attempt, Job, Piece
from toolkit.client.operations import Operation, Progress, Sleep
from toolkit.client.options import TLS, Hedge, Retry, Split, Token
from toolkit.client.session import open_session
from toolkit.client.transport.interface import AsyncTransport, Connection, Outcome
from toolkit.client.transport.opening import open_async
from toolkit.client.types import Array, Detailed, ModelMetadata, Ranked, Sparse, VersionStatus
from toolkit.errors import InputError
from toolkit.signatures import DEFAULT_SIGNATURE
from toolkit.sparse_signatures import SPARSE_SIGNATURE

__all__ = ["AsyncClient"]

T = TypeVar("T")


class AsyncClient:
    """`toolkit.client.Client` for asyncio: the same arguments, operations and errors, awaited.

    Close it with ``await client.close()``, or use it in ``async with``. It belongs to the event loop of its first use.
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
        transport: AsyncTransport | None = None,
    ) -> None:
        self.session = open_session(url, model, version, label, timeout, split, retry, hedge)
        self._connection = Connection(tls, token, metadata, compression, round_robin, channels, proxies)
        self._transport = transport
        self._loop: asyncio.AbstractEventLoop | None = None  # whose connections they are
        self._closed = False

    async def embed(
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
        return await self.run(self.session.embed(texts, signature, progress), deadline)

    async def embed_query(
        self, texts: Iterable[str], *, progress: Progress | None = None, deadline: float | None = None
    ) -> Array:
        """Like `embed`, by the signature ``embed_query`` (for models that treat queries in their own way)."""
        return await self.run(self.session.embed(texts, "embed_query", progress), deadline)

    async def embed_document(
        self, texts: Iterable[str], *, progress: Progress | None = None, deadline: float | None = None
    ) -> Array:
        """Like `embed`, by the signature ``embed_document``."""
        return await self.run(self.session.embed(texts, "embed_document", progress), deadline)

    async def embed_stream(self, texts: Iterable[str], *, signature: str = DEFAULT_SIGNATURE) -> AsyncIterator[Array]:
        """Embeddings of any number of texts, read as they are needed: arrays [k, dim], in order, as they arrive."""
        async with aclosing(self.pieces(await self.run(self.session.stream(texts, signature)))) as pieces:
            async for piece in pieces:
                yield piece.value["embedding"]

    async def multi_vector(
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
        return await self.run(self.session.multi_vector(texts, signature, progress), deadline)

    async def multi_vector_query(
        self, texts: Iterable[str], *, progress: Progress | None = None, deadline: float | None = None
    ) -> list[NDArray[np.float32]]:
        """Like `multi_vector`, by the signature ``multi_vector_query``."""
        return await self.run(self.session.multi_vector(texts, "multi_vector_query", progress), deadline)

    async def multi_vector_document(
        self, texts: Iterable[str], *, progress: Progress | None = None, deadline: float | None = None
    ) -> list[NDArray[np.float32]]:
        """Like `multi_vector`, by the signature ``multi_vector_document``."""
        return await self.run(self.session.multi_vector(texts, "multi_vector_document", progress), deadline)

    async def detailed(
        self, texts: Iterable[str], *, progress: Progress | None = None, deadline: float | None = None
    ) -> Detailed:
        """Embeddings with each text's number of tokens and whether it was cut."""
        return await self.run(self.session.detailed(texts, progress), deadline)

    async def tokenize(
        self, texts: Iterable[str], *, progress: Progress | None = None, deadline: float | None = None
    ) -> dict[str, NDArray[np.int32]]:
        """``input_ids``, ``attention_mask``, ``token_type_ids``: int32 [n, length], padded to the longest text."""
        return await self.run(self.session.tokenize(texts, progress), deadline)

    async def sparse(
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
        return await self.run(self.session.sparse(texts, signature, progress), deadline)

    async def rerank(
        self, query: str, documents: Iterable[str], *, top_k: int | None = None, deadline: float | None = None
    ) -> list[Ranked]:
        """``documents`` by falling score against ``query``, by the signature ``rerank``; at most ``top_k``."""
        return await self.run(self.session.rerank(query, documents, top_k), deadline)

    async def predict(
        self,
        inputs: Mapping[str, Any],
        *,
        signature: str = DEFAULT_SIGNATURE,
        outputs: Sequence[str] = (),
        deadline: float | None = None,
    ) -> dict[str, Array]:
        """One request to any signature: arrays in, arrays out (``outputs``: only these). Nothing is split.

        Numeric outputs over gRPC are read-only views of the answer; strings are object arrays of bytes.
        """
        return await self.run(self.session.predict(inputs, signature, outputs), deadline)

    async def status(self) -> list[VersionStatus]:
        """The state of the model's versions."""
        return await self.run(self.session.status())

    async def metadata(self) -> ModelMetadata:
        """The signatures of the version that answers."""
        return await self.run(self.session.metadata())

    async def wait_until_ready(self, timeout: float = 60.0, *, interval: float = 0.2) -> ModelMetadata:
        """Wait until the model can answer; raises `DeadlineError` after ``timeout`` seconds."""
        return await self.run(self.session.wait_until_ready(timeout, interval))

    async def close(self) -> None:
        """End all connections; the client cannot be used any more. May be called twice."""
        if self._closed:
            return
        # Connections whose loop has ended, as `asyncio.run` does, cannot be waited for any more.
        if self._transport is not None and not (self._loop is not None and self._loop.is_closed()):
            self._check_loop()
            await self._transport.close()
        self._closed = True

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _opened(self) -> AsyncTransport:
        if self._closed:
            raise InputError("this client is closed")
        # Connections belong to an event loop, and there may be none yet when the client is made.
        if self._transport is None:
            self._transport = open_async(self.session.address, self._connection)
            self._loop = asyncio.get_running_loop()
        self._check_loop()
        return self._transport

    def _check_loop(self) -> None:
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            raise InputError("this client belongs to the event loop of its first use; make one for each loop")

    async def run(self, operation: Operation[T], deadline: float | None = None) -> T:
        """Carry out an operation of `session`, within ``deadline`` seconds; for code beyond the vocabulary above."""
        until = self.session.until(deadline)
        try:
            effect = next(operation)
            while True:
                try:
                    await self._do(effect, until)
                except Exception as error:
                    effect = operation.throw(error)
                else:
                    effect = operation.send(None)
        except StopIteration as stop:
            value: T = stop.value
            return value

    async def _do(self, effect: Job | Sleep, until: float | None) -> None:
        if isinstance(effect, Sleep):
            await asyncio.sleep(effect.seconds)
            return
        effect.bound(until)
        async with aclosing(self.pieces(effect)) as pieces:
            async for piece in pieces:
                effect.deliver(piece)
                del piece  # frees the answer before the next one is waited for

    async def pieces(self, job: Job) -> AsyncGenerator[Piece, None]:
        """The job's finished pieces, in order, as they come; leaving early cancels what is still under way."""
        transport, clock = self._opened(), self.session.clock
        live: dict[asyncio.Task[Outcome], Attempt] = {}
        try:
            while not job.finished:
                for attempt in job.poll(clock()):
                    task = asyncio.create_task(_coroutine(transport, attempt))
                    live[task] = attempt
                if not live:
                    await asyncio.sleep(job.wait(clock()) or 0)
                    continue
                done, _ = await asyncio.wait(live, timeout=job.wait(clock()), return_when=asyncio.FIRST_COMPLETED)
                while done:
                    task = done.pop()
                    if task in live:
                        stale = job.resolve(live.pop(task), task.result(), clock())
                        for late in [task for task, attempt in live.items() if attempt in stale]:
                            live.pop(late)
                            late.cancel()
                    del task  # and with it the answer, as soon as its piece is handed out
                    for piece in job.drain():
                        yield piece
                        del piece
        finally:
            for task in live:
                task.cancel()


async def _coroutine(transport: AsyncTransport, attempt: Attempt) -> Outcome:
    return await transport.send(attempt.request, attempt.timeout)
