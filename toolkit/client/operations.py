"""The client's vocabulary, written once: each operation is a generator that yields what has to be done (`Job`, `Sleep`)
and returns its result. The sync and the async client differ only in how they do it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from toolkit.client.job import Feed, Job, Piece, Shared
from toolkit.client.options import Hedge, Retry, Split
from toolkit.client.transport.address import Address
from toolkit.client.types import (
    Array,
    Column,
    Detailed,
    ModelMetadata,
    Ranked,
    SignatureInfo,
    Sparse,
    Spec,
    VersionStatus,
)
from toolkit.client.wire.arrays import (
    Ragged,
    Table,
    aligned,
    as_served,
    checked_rows,
    pad_join,
    row_aligned,
    text_rows,
    to_column,
)
from toolkit.client.wire.rest import RestCodec
from toolkit.client.wire.sparse import INDICES, SPARSE, sparse_rows
from toolkit.client.wire.tensors import GrpcCodec
from toolkit.errors import (
    ClientError,
    DeadlineError,
    InputError,
    ModelNotFoundError,
    OverloadedError,
    ResponseError,
    SignatureError,
    UnreachableError,
)
from toolkit.signatures import DEFAULT_SIGNATURE
from toolkit.sparse_signatures import SPARSE_DENSE
from toolkit.vectors_signatures import ROW_SPLITS, VALUES

__all__ = ["Operation", "Progress", "Session", "Sleep"]

T = TypeVar("T")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Sleep:
    """Wait ``seconds``."""

    seconds: float


Operation = Generator[Job | Sleep, None, T]


@dataclass(frozen=True)
class Session:
    """Everything an operation needs to know; holds no connection."""

    address: Address
    spec: Spec
    codec: GrpcCodec | RestCodec
    split: Split
    retry: Retry
    hedge: Hedge | None
    timeout: float
    clock: Callable[[], float] = time.monotonic
    shared: Shared = field(init=False)
    known: dict[Spec, ModelMetadata] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shared", Shared(self.retry))

    # ---- what every operation is made of

    def until(self, seconds: float | None) -> float | None:
        """The time of ``clock`` at which a deadline of ``seconds`` from now is over. Raises `InputError`."""
        if seconds is not None and not seconds > 0:
            raise InputError(f"deadline is {seconds} seconds; it must be more than 0")
        return None if seconds is None else self.clock() + seconds

    def _job(self, **fields: Any) -> Job:
        own = {
            "address": str(self.address),
            "model": str(self.spec),
            "split": self.split,
            "retry": self.retry,
            "shared": self.shared,
            "timeout": self.timeout,
            "hedge": self.hedge,
            "version": self.spec.version,
        }
        return Job(**{**own, **fields})

    def _single(self, encode: Callable[[], Any], decode: Callable[[bytes], T], **fields: Any) -> Operation[T]:
        """One request that is not split."""
        answers: list[Piece] = []
        yield self._job(
            feed=Feed([b""]),
            encode=lambda rows, version: encode(),
            decode=lambda body, count: (decode(body), None),
            splittable=False,
            deliver=answers.append,
            **fields,
        )
        value: T = answers[0].value
        return value

    def _at(self, signature: str) -> Spec:
        return replace(self.spec, signature=signature)

    def _known(self) -> Operation[ModelMetadata]:
        spec = self._at("")
        if spec not in self.known:
            self.known[spec] = yield from self.metadata()
        return self.known[spec]

    def _described(self, signature: str) -> Operation[SignatureInfo]:
        """The served signature; raises `SignatureError` naming those there are."""
        signatures = (yield from self._known()).signatures
        if signature not in signatures:
            # The cache may be older than the served version.
            self.known.clear()
            signatures = (yield from self._known()).signatures
        if signature not in signatures:
            raise self._no_signature(signature, signatures)
        return signatures[signature]

    def _no_signature(self, name: str, there: Iterable[str]) -> SignatureError:
        names = ", ".join(there) or "none"
        message = f"the model has no signature {name!r}; it has: {names}"
        return SignatureError(message, address=str(self.address), model=str(self.spec))

    def _needed(self, signature: str) -> Operation[SignatureInfo | None]:
        """What the codec needs to read the signature's answers."""
        return None if self.codec.describes_outputs else (yield from self._described(signature))

    def _run_job(self, signature: str, job: Job) -> Operation[None]:
        """Run ``job``; a missing signature is reported with the names of those that there are."""
        try:
            yield job
        except SignatureError as error:
            try:
                there = (yield from self.metadata()).signatures
            except ClientError:
                raise error from None
            raise self._no_signature(signature, there) from None

    def text_job(
        self,
        rows: Iterable[bytes],
        signature: str,
        outputs: Sequence[str],
        *,
        inputs: Callable[[list[bytes]], Mapping[str, Column]] = lambda rows: {"text": rows},
        read: Callable[[Mapping[str, Array], int], Any] | None = None,
        **fields: Any,
    ) -> Operation[Job]:
        """The job that sends ``rows`` to ``signature`` and yields the named ``outputs``, each checked to have a row per
        row sent; or what ``read`` makes of them and the number of rows."""
        info = yield from self._needed(signature)
        spec = self._at(signature)

        def encode(chunk: list[bytes], version: int | None) -> Any:
            pinned = spec if version is None else replace(spec, version=version, label=None)
            return self.codec.predict(pinned, inputs(chunk), outputs, info)

        def decode(body: bytes, count: int) -> tuple[Any, int | None]:
            answer, version = self.codec.predicted(body, info)
            if read is not None:
                return read(answer, count), version
            return {name: row_aligned(name, answer, count) for name in outputs}, version

        return self._job(feed=Feed(rows), encode=encode, decode=decode, **fields)

    def _each(
        self,
        rows: list[bytes],
        signature: str,
        outputs: Sequence[str],
        take: Callable[[int, Any], None],
        progress: Progress | None = None,
        **fields: Any,
    ) -> Operation[None]:
        """Send ``rows`` and hand their outputs to ``take(first row, outputs)``, in order."""

        def deliver(piece: Piece) -> None:
            take(piece.start, piece.value)
            if progress is not None:
                progress(piece.stop, len(rows))

        version = self.spec.version
        if not self.codec.describes_outputs and version is None and len(rows) > (self.shared.rows or self.split.rows):
            # REST answers do not say which version made them: name it, so that all pieces come from one.
            version = (yield from self.metadata()).version
        job = yield from self.text_job(rows, signature, outputs, deliver=deliver, version=version, **fields)
        yield from self._run_job(signature, job)

    def _table(
        self, texts: Iterable[str], signature: str, outputs: Sequence[str], progress: Progress | None
    ) -> Operation[dict[str, Array]]:
        """Outputs whose rows are alike, for all ``texts``."""
        rows = text_rows(texts)
        if not rows:
            return (yield from self._empty(signature, outputs))
        table = Table(len(rows))
        yield from self._each(rows, signature, outputs, table.put, progress)
        return table.columns

    # ---- the vocabulary

    def embed(
        self,
        texts: Iterable[str],
        signature: str = DEFAULT_SIGNATURE,
        progress: Progress | None = None,
    ) -> Operation[Array]:
        return (yield from self._table(texts, signature, ("embedding",), progress))["embedding"]

    def multi_vector(
        self, texts: Iterable[str], signature: str, progress: Progress | None = None
    ) -> Operation[list[NDArray[np.float32]]]:
        rows = text_rows(texts)
        if not rows:
            yield from self._described(signature)
        found: list[NDArray[np.float32]] = []
        if rows:
            yield from self._each(
                rows,
                signature,
                (VALUES, ROW_SPLITS),
                lambda start, piece: found.extend(piece.rows()),
                progress,
                read=Ragged.of,
            )
        return found

    def stream(self, texts: Iterable[str], signature: str) -> Operation[Job]:
        """The job of an endless embed; texts are checked as they are read."""
        version = self.spec.version
        if not self.codec.describes_outputs and version is None:
            version = (yield from self.metadata()).version
        rows = checked_rows(texts)
        return (yield from self.text_job(rows, signature, ("embedding",), version=version))

    def detailed(self, texts: Iterable[str], progress: Progress | None = None) -> Operation[Detailed]:
        outputs = ("embedding", "num_tokens", "truncated")
        return Detailed(**(yield from self._table(texts, "detailed", outputs, progress)))

    def tokenize(
        self, texts: Iterable[str], progress: Progress | None = None
    ) -> Operation[dict[str, NDArray[np.int32]]]:
        outputs = ("input_ids", "attention_mask", "token_type_ids")
        texts = texts if isinstance(texts, (str, bytes)) else list(texts)
        rows = text_rows(texts)
        if not rows:
            return {name: np.empty((0, 0), np.int32) for name in outputs}
        pieces: list[dict[str, Array]] = []
        yield from self._each(rows, "tokenize", outputs, lambda start, piece: pieces.append(piece), progress)
        lengths = [piece["input_ids"].shape[1] for piece in pieces]
        pad = 0
        if len(set(lengths)) > 1:
            pad = yield from self._pad_id(texts, pieces, lengths)
        return {name: pad_join(name, pieces, pad if name == "input_ids" else 0) for name in outputs}

    def _pad_id(self, texts: Sequence[str], pieces: list[dict[str, Array]], lengths: list[int]) -> Operation[int]:
        """The id the model pads with: seen in an answer, or else asked for with a short and a long text together."""
        for piece in pieces:
            padding = piece["input_ids"][piece["attention_mask"] == 0]
            if padding.size:
                return int(padding[0])
        starts = np.cumsum([0] + [len(piece["input_ids"]) for piece in pieces])
        pair = [texts[starts[int(np.argmin(lengths))]], texts[starts[int(np.argmax(lengths))]]]
        both = yield from self.predict({"text": pair}, "tokenize", ("input_ids", "attention_mask"))
        padding = both["input_ids"][both["attention_mask"] == 0]
        if not padding.size:
            raise ResponseError(
                "two texts of different length were tokenized without padding", address=str(self.address)
            )
        return int(padding[0])

    def sparse(self, texts: Iterable[str], signature: str, progress: Progress | None = None) -> Operation[Sparse]:
        rows = text_rows(texts)
        info = yield from self._described(signature)
        if not set(SPARSE) <= set(info.outputs):
            there = ", ".join(map(str, info.outputs.values()))
            message = f"signature {signature!r} gives no sparse vectors ('indices' and 'values') but {there}"
            raise SignatureError(message, address=str(self.address), model=str(self.spec))
        dense = (yield from self._described(SPARSE_DENSE)).outputs.get("embedding")
        if dense is None or not dense.shape or dense.shape[-1] is None:
            raise ResponseError(f"signature {SPARSE_DENSE!r} does not tell how many numbers a vector has")
        found: dict[str, list[Array]] = {INDICES: [np.empty(0, np.int32)], VALUES: [np.empty(0, np.float32)]}
        lengths = [np.zeros(1, np.int64)]
        if rows:

            def take(start: int, piece: Mapping[str, Ragged]) -> None:
                lengths.append(np.diff(piece[VALUES].row_splits))
                for name, parts in found.items():
                    parts.append(piece[name].values)

            yield from self._each(rows, signature, tuple(info.outputs), take, progress, read=sparse_rows)
        splits = np.cumsum(np.concatenate(lengths), dtype=np.int64)
        return Sparse(np.concatenate(found[INDICES]), np.concatenate(found[VALUES]), splits, dense.shape[-1])

    def rerank(self, query: str, documents: Iterable[str], top_k: int | None = None) -> Operation[list[Ranked]]:
        if not isinstance(query, str):
            raise InputError(f"query is of type {type(query).__name__}; it must be a str")
        if top_k is not None and top_k < 1:
            raise InputError(f"top_k is {top_k}; it must be at least 1")
        documents = documents if isinstance(documents, (str, bytes)) else list(documents)
        text = text_rows([query])[0]
        rows = text_rows(documents)
        yield from self._described("rerank")
        table = Table(len(rows))
        if rows:
            yield from self._each(
                rows,
                "rerank",
                ("score",),
                lambda start, piece: table.put(start, {"score": piece["score"].reshape(len(piece["score"]), -1)}),
                inputs=lambda rows: {"query": [text] * len(rows), "document": rows},
            )
        scores = table.columns.get("score", np.empty((0, 1), np.float32))
        if scores.shape[1] != 1:
            raise ResponseError(f"a document has {scores.shape[1]} scores", address=str(self.address))
        scores = scores[:, 0]
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [Ranked(int(i), float(scores[i]), documents[int(i)]) for i in order]

    def predict(
        self,
        inputs: Mapping[str, Any],
        signature: str = DEFAULT_SIGNATURE,
        outputs: Sequence[str] = (),
    ) -> Operation[dict[str, Array]]:
        if not isinstance(inputs, Mapping):
            raise InputError(f"inputs is of type {type(inputs).__name__}; give a mapping of input name to value")
        if isinstance(outputs, str):
            raise InputError("outputs is one str; give a list of output names")
        columns = {name: to_column(name, value) for name, value in inputs.items()}
        info = yield from self._needed(signature)
        spec = self._at(signature)
        answers: list[dict[str, Array]] = []
        job = self._job(
            feed=Feed([b""]),
            encode=lambda rows, version: self.codec.predict(spec, columns, tuple(outputs), info),
            decode=lambda body, count: self.codec.predicted(body, info),
            splittable=False,
            deliver=lambda piece: answers.append(piece.value),
        )
        yield from self._run_job(signature, job)
        missing = [name for name in outputs if name not in answers[0]]
        if missing:
            raise InputError(
                f"signature {signature!r} has no output {', '.join(missing)}; it has: {', '.join(answers[0])}"
            )
        return {name: aligned(answers[0][name]) for name in outputs or answers[0]}

    def status(self) -> Operation[list[VersionStatus]]:
        return (yield from self._single(lambda: self.codec.status(self.spec), self.codec.status_of))

    def metadata(self) -> Operation[ModelMetadata]:
        return (yield from self._single(lambda: self.codec.metadata(self.spec), self.codec.metadata_of))

    def wait_until_ready(self, timeout: float, interval: float) -> Operation[ModelMetadata]:
        end = self.clock() + timeout
        while True:
            try:
                # Metadata exists from the moment a version can answer; a status of 200 says nothing of that.
                return (
                    yield from self._single(
                        lambda: self.codec.metadata(self.spec),
                        self.codec.metadata_of,
                        deadline=end,
                        retry=Retry(attempts=1),
                    )
                )
            except (UnreachableError, ModelNotFoundError, OverloadedError, DeadlineError) as error:
                if self.clock() + interval >= end:
                    raise DeadlineError(
                        f"the model was not ready within {timeout:g} seconds; last: {error.message}",
                        address=str(self.address),
                        model=str(self.spec),
                    ) from None
            yield Sleep(interval)

    def _empty(self, signature: str, outputs: Sequence[str] = ("embedding",)) -> Operation[dict[str, Array]]:
        """Outputs of no rows, in the dtypes and dimensions the served signature states."""
        info = yield from self._described(signature)
        arrays = {}
        for name in outputs:
            tensor = info.outputs.get(name)
            if tensor is None or tensor.shape is None or any(size is None for size in tensor.shape[1:]):
                there = "; ".join(str(item) for item in info.outputs.values())
                raise ResponseError(
                    f"signature {signature!r} does not tell the shape of {name!r}; its outputs: {there}",
                    address=str(self.address),
                    model=str(self.spec),
                )
            arrays[name] = as_served(name, np.empty((0, *(size or 0 for size in tensor.shape[1:])), tensor.dtype))
        return arrays
