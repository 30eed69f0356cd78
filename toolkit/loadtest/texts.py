"""What is sent: texts of a file, of the built-in set, or of lengths in tokens that the model itself counts; rows a
request; models and signatures mixed by weight. Everything is drawn from a seed, and encoded before the run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.client import Client, ModelMetadata
from toolkit.client.bulk.rows import Source
from toolkit.client.operations import Session
from toolkit.client.types import Request, Spec
from toolkit.corpus.calibration import built_in_texts
from toolkit.errors import InputError
from toolkit.signatures import DEFAULT_SIGNATURE

__all__ = ["Distribution", "Target", "TextSource", "Traffic", "prepare"]

_MOST_TEXTS = 100_000
_MOST_BYTES = 64 << 20
_ROUNDS = 8


@dataclass(frozen=True)
class Distribution:
    """Whole numbers and their weights: ``8``, ``1-32`` (each as likely), ``1:9,32:1`` (with weights)."""

    values: tuple[int, ...] = (1,)
    weights: tuple[float, ...] = (1.0,)

    @classmethod
    def parse(cls, text: str, what: str) -> Distribution:
        """Raises `InputError` naming ``what``."""
        if match := re.fullmatch(r"(\d+)-(\d+)", text):
            low, high = int(match[1]), int(match[2])
            if 1 <= low <= high:
                return cls(tuple(range(low, high + 1)), (1.0,) * (high - low + 1))
        parts = [part.partition(":") for part in text.split(",")]
        try:
            values = tuple(int(value) for value, _, _ in parts)
            weights = tuple(float(weight) if colon else 1.0 for _, colon, weight in parts)
        except ValueError:
            values, weights = (), ()
        if not values or min(values) < 1 or not all(0 < weight < float("inf") for weight in weights):
            raise InputError(f"{what} is {text!r}; give a number (8), a range (1-32) or weights (1:9,32:1)")
        return cls(values, weights)

    def draw(self, random: np.random.Generator, count: int) -> NDArray[np.int64]:
        weights = np.array(self.weights) / sum(self.weights)
        return random.choice(np.array(self.values), size=count, p=weights)

    def __str__(self) -> str:
        run = self.values == tuple(range(self.values[0], self.values[-1] + 1))
        if len(self.values) > 1 and run and len(set(self.weights)) == 1:
            return f"{self.values[0]}-{self.values[-1]}"
        if len(self.values) == 1:
            return str(self.values[0])
        return ",".join(f"{value}:{weight:g}" for value, weight in zip(self.values, self.weights, strict=True))


@dataclass(frozen=True)
class Target:
    """A model's signature, and how often it is asked in relation to the others."""

    model: str
    signature: str = DEFAULT_SIGNATURE
    weight: float = 1.0
    version: int | None = None
    label: str | None = None

    def __str__(self) -> str:
        return f"{Spec(self.model, self.version, self.label)} {self.signature}"

    @property
    def spec(self) -> Spec:
        return Spec(self.model, self.version, self.label, self.signature)


@dataclass(frozen=True)
class TextSource:
    """``path``: a file as ``embed`` reads it. ``tokens``: texts of these lengths in tokens, special ones included.
    Neither: the built-in set, of 1 to 96 words in many scripts."""

    path: str | None = None
    format: str | None = None
    column: str = "text"
    tokens: Distribution | None = None

    def __post_init__(self) -> None:
        if self.path is not None and self.tokens is not None:
            raise InputError("texts come from a file or from a distribution of lengths, not from both")

    def __str__(self) -> str:
        if self.path is not None:
            return f"file {self.path}"
        return "the built-in set" if self.tokens is None else f"built-in words, {self.tokens} tokens a text"


@dataclass(frozen=True)
class Traffic:
    """Requests ready to be sent, which a run sends in a random order, over and over. ``target``, ``rows`` and
    ``tokens`` are of each request; ``tokens`` is 0 where the model has no signature that counts them."""

    requests: tuple[Request, ...]
    target: tuple[int, ...]
    rows: tuple[int, ...]
    tokens: tuple[int, ...]
    counted: bool

    @cached_property
    def mean_rows(self) -> float:
        return sum(self.rows) / len(self.rows)


def prepare(client: Client, targets: tuple[Target, ...], source: TextSource, rows: Distribution, count: int,
            seed: int) -> Traffic:  # fmt: skip
    """Draw and encode ``count`` different requests. Asks the server what its signatures take and how long texts are.

    Raises `InputError`, and `ClientError` if the server does not answer as it should.
    """
    random = np.random.default_rng((seed, 2))
    weights = np.array([target.weight for target in targets])
    if not np.all(weights > 0):
        raise InputError("weights of models and signatures must be more than 0")
    places = random.choice(len(targets), size=count, p=weights / weights.sum())
    sizes = rows.draw(random, count)
    inputs = [_text_inputs(_session(client, target), client, target) for target in targets]
    requests: list[Request] = []
    tokens = np.zeros(count, np.int64)
    texts: dict[str, tuple[list[str], NDArray[np.int64] | None]] = {}
    counted = True
    total = 0
    for number, (place, size) in enumerate(zip(places.tolist(), sizes.tolist(), strict=True)):
        target = targets[place]
        if target.model not in texts:
            texts[target.model] = _texts(client, target, source, random)
        pool, lengths = texts[target.model]
        columns = {}
        for name in inputs[place]:
            chosen = random.integers(len(pool), size=size)
            columns[name] = [pool[i].encode() for i in chosen]
            if lengths is not None:
                tokens[number] += int(lengths[chosen].sum())
        counted = counted and lengths is not None
        request = client.session.codec.predict(target.spec, columns, (), None)
        total += len(request.body or b"")
        requests.append(request)
        if total > _MOST_BYTES:
            break
    done = len(requests)
    return Traffic(
        tuple(requests),
        tuple(places[:done].tolist()),
        tuple(sizes[:done].tolist()),
        tuple(tokens[:done].tolist()),
        counted,
    )


def _session(client: Client, target: Target) -> Session:
    return replace(client.session, spec=Spec(target.model, target.version, target.label))


def _text_inputs(session: Session, client: Client, target: Target) -> list[str]:
    metadata: ModelMetadata = client.run(session.metadata())
    if target.signature not in metadata.signatures:
        there = ", ".join(metadata.signatures) or "none"
        raise InputError(f"model {target.model} has no signature {target.signature!r}; it has: {there}")
    inputs = metadata.signatures[target.signature].inputs
    others = [str(info) for info in inputs.values() if info.dtype != "string"]
    if others or not inputs:
        raise InputError(f"signature {target.signature} takes more than text: {'; '.join(others) or 'nothing'}")
    return list(inputs)


def _texts(client: Client, target: Target, source: TextSource, random: np.random.Generator
           ) -> tuple[list[str], NDArray[np.int64] | None]:  # fmt: skip
    count = _Counter(client, target)
    if source.tokens is not None:
        return _of_lengths(count, source.tokens, random)
    texts = _file_texts(source) if source.path is not None else list(built_in_texts(256).texts)
    return texts, count(texts)


def _file_texts(source: TextSource) -> list[str]:
    assert source.path is not None
    rows = Source.of(Path(source.path), source.format, text_column=source.column).rows()
    texts = []
    for number, row in enumerate(islice(rows, _MOST_TEXTS)):
        if row.text is None:
            raise InputError(f"{source.path}, row {number}: {row.problem}")
        texts.append(row.text)
    if not texts:
        raise InputError(f"{source.path} holds no text")
    return texts


class _Counter:
    """Numbers of tokens by the model's own ``tokenize`` (or ``detailed``); ``None`` where it has neither."""

    def __init__(self, client: Client, target: Target) -> None:
        self._client, self._session = client, _session(client, target)
        there: Any = client.run(self._session.metadata()).signatures
        self._signature = next((name for name in ("tokenize", "detailed") if name in there), None)

    def __call__(self, texts: list[str]) -> NDArray[np.int64] | None:
        if self._signature is None:
            return None
        if self._signature == "detailed":
            return np.asarray(self._client.run(self._session.detailed(texts)).num_tokens, np.int64)
        parts = []
        for start in range(0, len(texts), 64):  # a batch is padded to its longest text: few at a time, of like lengths
            found = self._client.run(self._session.tokenize(texts[start : start + 64]))
            parts.append(found["attention_mask"].sum(1, dtype=np.int64))
        return np.concatenate(parts)


def _of_lengths(count: _Counter, lengths: Distribution, random: np.random.Generator
                ) -> tuple[list[str], NDArray[np.int64]]:  # fmt: skip
    words = sorted(
        {word for text in built_in_texts(256).texts for word in text.split() if word.isascii() and word.isalnum()}
    )
    alone = count(["", *words])
    if alone is None:
        raise InputError("the model has neither 'tokenize' nor 'detailed': lengths in tokens cannot be counted")
    special, *sizes = alone.tolist()  # an empty text has only the special tokens
    short = [word for word, size in zip(words, sizes, strict=True) if size == special + 1]
    if not short:
        raise InputError("no built-in word is one token of this model: give --texts with a file of your lengths")
    wanted = lengths.draw(random, 1024)
    drawn = [random.choice(short, size=2 * n) for n in wanted.tolist()]
    counts = np.maximum(1, wanted - special)  # words of each text
    seen = ""
    for _ in range(_ROUNDS):
        texts = [" ".join(row[:n]) for row, n in zip(drawn, counts.tolist(), strict=True)]
        found = count(texts)
        assert found is not None
        off = wanted - found
        if not off.any():
            return texts, found
        counts = np.maximum(1, counts + off)
        worst = int(np.argmax(np.abs(off)))
        seen = f"of {wanted[worst]} tokens can be made: the model counts {found[worst]}"
    raise InputError(f"no text {seen} (it may cut longer texts, or add special tokens to shorter ones)")
