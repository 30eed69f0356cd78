"""An artifact loaded into this process, as bulk embedding uses one: no server, one thread pool, batches by tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from toolkit.artifact.inspection import inspect
from toolkit.client.bulk.encoder import Embed
from toolkit.client.bulk.plan import Plan
from toolkit.client.job import Piece
from toolkit.client.types import Array, ModelMetadata, SignatureInfo, TensorInfo
from toolkit.errors import ArtifactError, MissingExtraError, RequestError
from toolkit.signatures import Signature, Tensor
from toolkit.version_folder import VersionFolder

__all__ = ["BUDGET", "Artifact", "artifact_digest"]

BUDGET = 4096
"""Tokens of a batch, which bound what activations take. Throughput hardly depends on them: with all-MiniLM-L6-v2 it is
0.96 to 1.00 of the best from 1,024 to 16,384 tokens, 0.90 at 512 (``benchmarks/bulk_ray.py budget``)."""

_LOOK = 1024  # texts whose tokens are counted together
# TensorFlow itself, and what a batch of `BUDGET` tokens takes in activations of a large model
_BASE_MEMORY = 1 << 30
# weights, and the tables of a large vocabulary, by size of the artifact (as `serving/model.env` counts one version)
_MEMORY_PER_BYTE = 2


@dataclass(frozen=True)
class Artifact:
    """An exported model on disk, at the same path on every machine that works with it. ``digest`` is that of the files
    that decide its answers; each process that loads them compares its own. ``size``: their bytes."""

    folder: Path
    version: int
    digest: str
    size: int

    @classmethod
    def of(cls, path: Path) -> Artifact:
        """A version's folder, or a model's, of which the newest version is taken.

        Raises ``InputError`` if it is none, ``ArtifactError`` if it cannot be read.
        """
        place = VersionFolder.of(path)
        return cls(place.folder, int(place.folder.name), artifact_digest(place.folder), place.size)

    @property
    def name(self) -> str:
        return str(self.folder)

    @property
    def model(self) -> str:
        return self.folder.parent.name

    @property
    def memory(self) -> int:
        return _BASE_MEMORY + _MEMORY_PER_BYTE * self.size

    def metadata(self, version: int | None) -> ModelMetadata:
        """What the artifact's signatures are; ``version`` is the caller's business, since there is no other."""
        _tensorflow()
        return ModelMetadata(
            self.model, self.version, {item.name: _info(item) for item in inspect(self.folder).signatures}
        )

    @contextmanager
    def open(self, plan: Plan, patience: float, cpus: int) -> Iterator[Embed]:
        """The model loaded, with ``cpus`` threads unless TensorFlow has been used in this process before."""
        if not self.folder.is_dir():
            raise ArtifactError(f"{self.folder} is not on this machine")
        if artifact_digest(self.folder) != self.digest:
            raise ArtifactError(f"{self.folder} is another artifact on this machine: its digest is not {self.digest}")
        tf = _tensorflow()
        with suppress(RuntimeError):  # where TensorFlow has been used in this process, its threads are what they are
            tf.config.threading.set_intra_op_parallelism_threads(cpus)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        try:
            # held: functions of a model that nothing refers to any more lose their variables
            model = tf.saved_model.load(str(self.folder))
        except (tf.errors.OpError, OSError) as error:
            raise ArtifactError(f"{self.folder} cannot be loaded: {_line(error)}") from None
        signatures = model.signatures

        def run(texts: Sequence[bytes]) -> dict[str, Array]:
            answer = signatures[plan.signature](text=tf.constant(texts, tf.string))
            return plan.answered({name: answer[name].numpy() for name in plan.outputs}, len(texts))

        def tokens(texts: Sequence[bytes]) -> list[int]:
            """Tokens of each text, truncated as the model does; without a signature that tells, a bound by size."""
            if "tokenize" not in signatures:
                return [len(text) + 2 for text in texts]
            mask = signatures["tokenize"](text=tf.constant(texts, tf.string))["attention_mask"]
            return [int(count) for count in tf.reduce_sum(mask, 1).numpy()]

        yield lambda texts: _pieces(_batches(texts, tokens), run, tf.errors.InvalidArgumentError)


def artifact_digest(folder: Path) -> str:
    """``sha256:`` of graph, variables and assets, names included; of nothing that may change beside them.

    Raises ``ArtifactError`` if they cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if path.is_file() and name.parts[0] in ("saved_model.pb", "variables", "assets"):
                with path.open("rb") as file:
                    own = hashlib.file_digest(file, "sha256").hexdigest()
                digest.update(f"{name.as_posix()} {own}\n".encode())
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be read: {error.strerror}") from None
    return f"sha256:{digest.hexdigest()}"


def _batches(texts: Iterator[bytes], tokens: Callable[[Sequence[bytes]], list[int]]) -> Iterator[list[bytes]]:
    """Consecutive texts, of `BUDGET` tokens at most (one text may have more)."""
    batch: list[bytes] = []
    total = 0
    while block := list(islice(texts, _LOOK)):
        for text, count in zip(block, tokens(block), strict=True):
            if batch and total + count > BUDGET:
                yield batch
                batch, total = [], 0
            batch.append(text)
            total += count
    if batch:
        yield batch


def _pieces(
    batches: Iterator[list[bytes]], run: Callable[[Sequence[bytes]], dict[str, Array]], refusal: type[Exception]
) -> Iterator[Piece]:
    """The answers in order. A batch that is refused is halved down to the rows at fault."""
    start = 0
    for batch in batches:
        waiting = [batch]
        while waiting:
            texts = waiting.pop()
            stop = start + len(texts)
            try:
                yield Piece(start, stop, run(texts))
            except refusal as error:
                if len(texts) > 1:
                    half = len(texts) // 2
                    waiting += [texts[half:], texts[:half]]
                    continue
                yield Piece(start, stop, error=RequestError(_line(error)))
            start = stop


def _tensorflow() -> Any:
    try:
        import tensorflow as tf
        import tensorflow_text  # noqa: F401 - registers the tokenizer's ops
    except ImportError as error:
        raise MissingExtraError(error.name or "tensorflow", "ray") from None
    return tf


def _info(signature: Signature) -> SignatureInfo:
    def side(tensors: Sequence[Tensor]) -> dict[str, TensorInfo]:
        return {tensor.name: TensorInfo(tensor.name, tensor.dtype, _shape(tensor)) for tensor in tensors}

    return SignatureInfo(signature.name, side(signature.inputs), side(signature.outputs))


def _shape(tensor: Tensor) -> tuple[int | None, ...] | None:
    """The shape as `inspect` spells it."""
    if tensor.shape == ("...",):
        return None
    return tuple(None if size == "?" else int(size) for size in tensor.shape)


def _line(error: BaseException) -> str:
    return " ".join(str(getattr(error, "message", error)).split())
