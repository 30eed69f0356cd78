"""Prove a tokenizer graph against the ``tokenizers`` package: every code point, random texts, broken UTF-8, the
vocabulary itself. One difference is a failure, reported with the shortest text found that shows it and the first step
that diverges.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import tensorflow as tf

from toolkit.errors import CheckError
from toolkit.tokenizer import texts
from toolkit.tokenizer.bpe.divergence import diverging_character_step
from toolkit.tokenizer.bpe.divergence import diverging_step as bytepair_step
from toolkit.tokenizer.bpe.spec import BytePairModel
from toolkit.tokenizer.bpe.whole_spec import CharacterPairModel
from toolkit.tokenizer.comparison import Comparison, Text, decoded
from toolkit.tokenizer.spec import TokenizerSpec
from toolkit.tokenizer.steps import RegexStep, Step
from toolkit.tokenizer.unigram.divergence import diverging_step as unigram_step
from toolkit.tokenizer.unigram.spec import UnigramModel
from toolkit.tokenizer.wordpiece.divergence import diverging_step as wordpiece_step
from toolkit.tokenizer.wordpiece.spec import WordPieceModel

if TYPE_CHECKING:
    from toolkit.tokenizer.graph import TokenizerGraph

__all__ = ["TokenizerReport", "check", "groups"]

Item = TypeVar("Item")
Progress = Callable[[int, int], None]

# Which step is to blame, where the added tokens found are the same and the tokens are not.
_DIVERGING_STEP: Mapping[type, Callable[[Comparison, str, Any], Step]] = {
    WordPieceModel: wordpiece_step,
    UnigramModel: unigram_step,
    BytePairModel: bytepair_step,
    CharacterPairModel: diverging_character_step,
}
_JOINED = 64  # code points in one text, where the context separates them
_BATCH = 4096
_RANDOM, _BROKEN = 50_000, 20_000
_LONG = 12  # cost of a text of some length: measured with WordPiece and Unigram tokenizers


@dataclass(frozen=True)
class TokenizerReport:
    """What was compared, without a single difference. ``groups`` are ``(name, texts)``."""

    groups: tuple[tuple[str, int], ...]
    seconds: float
    tokenizers: str

    @property
    def texts(self) -> int:
        """How many texts were compared."""
        return sum(count for _, count in self.groups)

    def __add__(self, other: TokenizerReport) -> TokenizerReport:
        """Of two tokenizers of one model."""
        return TokenizerReport(self.groups + other.groups, self.seconds + other.seconds, self.tokenizers)

    def __str__(self) -> str:
        return f"{self.texts:,} texts, 0 differences (tokenizers {self.tokenizers})"


@dataclass(frozen=True)
class Group:
    """Texts of one kind. Long texts that join many small ones are compared by their tokens alone, not cut."""

    name: str
    size: int
    texts: Callable[[], Iterable[Text]]
    whole: bool = True  # compare the packed, cut rows and their lengths as well
    cost: int = 1  # time of one text, where that of a code point alone is 1: for an even progress


def check(spec: TokenizerSpec, graph: TokenizerGraph, *, sample: float, progress: Progress | None) -> TokenizerReport:
    """See :func:`toolkit.tokenizer.self_check`."""
    import tokenizers

    started = time.monotonic()
    comparison = Comparison(spec, graph)
    chosen = groups(spec, sample)
    total, work, done = sum(group.size for group in chosen), sum(group.size * group.cost for group in chosen), 0
    for group in chosen:
        for batch in _batches(group.texts(), 256 if not group.whole else _BATCH):
            _require_equal(comparison, batch, whole=group.whole)
            done += len(batch) * group.cost
            if progress is not None:
                progress(total * done // work, total)
    counts = tuple((group.name, group.size) for group in chosen)
    return TokenizerReport(counts, time.monotonic() - started, tokenizers.__version__)


def groups(spec: TokenizerSpec, sample: float = 1.0) -> list[Group]:
    """The texts to compare, ``sample`` of the large groups (1.0: all)."""
    step = max(1, round(1 / sample))
    points = texts.code_points()[::step]
    tokens = [token.content for token in spec.added_tokens][:200]
    vocab: list[Text] = sorted(spec.model.vocab)
    # Pieces that begin a word, as words.
    vocab += [token.replace("▁", " ") for token in vocab if isinstance(token, str) and "▁" in token]
    joined = -(-len(points) // _JOINED)

    def alone() -> Iterator[str]:
        return (chr(point) for point in points)

    def in_context(context: str) -> Callable[[], Iterator[str]]:
        return lambda: (" ".join(context.format(chr(p)) for p in part) for part in _batches(points, _JOINED))

    def special() -> Iterator[str]:
        around = ("{}", "a{}b", " {} ", "a {} b", "{}{}", "{}é", "_{}1", "[{}]", "\t{}\n", "\U000f0000{}", "{}\u0301")
        return (form.replace("{}", token) for token in tokens for form in around)

    random_count, broken_count = int(_RANDOM * sample), int(_BROKEN * sample)
    fixed = (*texts.NATURAL, *texts.NATURAL_FORMS, *texts.TRICKY)
    return [
        Group("natural and tricky", len(fixed), lambda: fixed),
        Group("special tokens", 11 * len(tokens), special),
        Group("vocabulary", len(vocab), lambda: vocab),
        Group("random", random_count, lambda: texts.random_texts(random_count, 0, tokens), cost=_LONG),
        Group("broken UTF-8", broken_count, lambda: texts.broken_utf8(broken_count, 0, tokens)),
        *(
            Group(f"code points, {context}", joined, in_context(context), whole=False, cost=_LONG)
            for context in texts.CONTEXTS[1:]
        ),
        Group("code points alone", len(points), alone),
    ]


def _require_equal(comparison: Comparison, batch: Sequence[Text], *, whole: bool) -> None:
    """Raise :class:`~toolkit.errors.CheckError` for the first text that differs."""
    bad = comparison.differing(batch, whole=whole)
    if bad:
        text = _shortened(comparison, batch[bad[0]])
        raise CheckError(
            f"tokens differ from those of the tokenizers package for {text!a}: {_ids(comparison, text)}; "
            f"first diverging step: {_diverging_step(comparison, text)}"
        )


def _ids(comparison: Comparison, text: Text) -> str:
    _, packed = comparison.run(tf.constant([text], tf.string))
    expected = comparison.cut.encode(decoded(text)).ids
    return f"graph {packed.ids.numpy().tolist()}, original {expected}"


def _shortened(comparison: Comparison, text: Text) -> Text:
    """A short part of ``text`` that still differs: pieces are left out, ever smaller ones."""
    size = len(text) // 2
    while size:
        candidates = [text[:at] + text[at + size :] for at in range(0, len(text), size)]  # type: ignore[operator]
        bad = comparison.differing(candidates)
        if bad:
            text = candidates[bad[0]]
            size = min(size, len(text) // 2) or (1 if len(text) > 1 else 0)
        else:
            size //= 2
    return text


def _diverging_step(comparison: Comparison, text: Text) -> str:
    """The step whose result is the first to disagree with the original's corresponding stage."""
    trace = list(comparison.graph.trace(tf.constant([text], tf.string)))
    expected = comparison.full.encode(decoded(text), add_special_tokens=False)
    tokens = trace[-2][1].ids.numpy().tolist()
    if tokens == expected.ids:
        return str(trace[-1][0])
    found = [token for token in tokens if token in comparison.added]
    if len(trace) > 2 and found != [token for token in expected.ids if token in comparison.added]:
        return str(next(step for step, _ in trace if isinstance(step, RegexStep)))
    return str(_DIVERGING_STEP[type(comparison.spec.model)](comparison, decoded(text), expected))


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
