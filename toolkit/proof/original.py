"""The original model, asked for each row once: what it answers, and what its modules are given and write meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from toolkit.errors import SourceError
from toolkit.source.checkpoint import Checkpoint

__all__ = ["BATCH", "Asked", "Row", "asked_once", "told_of"]

Array = npt.NDArray[Any]
Features = Mapping[str, Any]
Answers = Sequence[Any] | Array
Read = TypeVar("Read")

BATCH = 16
"""Rows that the original is asked for at a time."""


class Row(NamedTuple):
    """The tokens of a text or of a pair after the cut, those included that fill a query up: ids, types (0 where the
    tokenizer gives none), and how many of them are attended to."""

    ids: tuple[int, ...]
    types: tuple[int, ...]
    attended: int


@dataclass(frozen=True)
class _Seen:
    """Of one batch, what the first module was ``given``, and what each module that was looked at wrote."""

    given: dict[str, Any] = field(default_factory=dict)
    written: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Asked:
    """A batch that went through the original once: its ``rows``, the ``answers`` to them, and the features that each
    module ``wrote``, in which a row lies at its place of ``places``. ``there`` says which tokens of these are a row's;
    ``None`` where texts lie end to end."""

    rows: Sequence[Row]
    answers: Answers
    wrote: Sequence[Features]
    places: Sequence[int]
    there: Array | None

    def by_row(self, value: Any) -> list[Array]:
        """Of each row, what a tensor of ``wrote`` has of it."""
        array = value.cpu().numpy()
        return [array[place] for place in self.places]

    def by_token(self, value: Any, there: Any = None) -> list[Array]:
        """Of each row, what a tensor of ``wrote`` has of its tokens, or of those that a mask calls ``there``."""
        mask: Any = self.there if there is None else there.bool().cpu().numpy()
        return [found[mask[place]] for found, place in zip(self.by_row(value), self.places, strict=True)]


def asked_once(
    rows: Sequence[Any],
    *,
    tokens: Callable[[list[Any]], Features],
    answers: Callable[[list[Any]], Answers],
    first: Any,
    modules: Sequence[Any],
    read: Callable[[Asked], Iterable[Read]],
    batch_size: int = BATCH,
) -> list[Read]:
    """What ``read`` makes of each row, in the order of ``rows``.

    ``answers`` asks the original for a batch, which must go through ``first`` and ``modules`` then; ``tokens`` are the
    features that ``first`` is given of the same rows, which tell whose is what.
    """
    batches = [list(rows[start : start + batch_size]) for start in range(0, len(rows), batch_size)]
    own = [row for batch in batches for row in _rows(tokens(batch))]
    order = sorted(range(len(rows)), key=lambda number: len(own[number].ids))  # of about one length: little padding
    found: dict[int, Read] = {}
    for start in range(0, len(rows), batch_size):
        numbers = order[start : start + batch_size]
        with _looked_at(first, modules) as seen:
            given = answers([rows[number] for number in numbers])
        # Originals sort their texts; rows of the same tokens are the same.
        places = {row: place for place, row in enumerate(_rows(seen.given))}
        mine = [own[number] for number in numbers]
        if strange := set(mine) - places.keys():
            raise ValueError(f"it was not given the tokens that its own tokenizer makes: {min(strange).ids}")
        asked = Asked(mine, given, seen.written, [places[row] for row in mine], _there(seen.given))
        found.update(zip(numbers, read(asked), strict=True))
    return [found[number] for number in range(len(rows))]


@contextmanager
def told_of(checkpoint: Checkpoint, what: str = "embed the texts") -> Iterator[None]:
    """Raise ``SourceError`` where the original cannot do ``what`` it is asked for."""
    try:
        yield
    except (IndexError, RuntimeError, ValueError) as error:  # what torch raises for models that do not fit together
        raise SourceError(f"{checkpoint.source}: the original model cannot {what}: {error}") from error


@contextmanager
def _looked_at(first: Any, modules: Sequence[Any]) -> Iterator[_Seen]:
    """What ``first`` is given and ``modules`` write while the block runs one batch through them."""
    seen = _Seen()
    # copies, as modules hand one dict on and write into it
    hooks = [first.register_forward_pre_hook(lambda _module, given: seen.given.update(given[0]))]
    hooks += [
        module.register_forward_hook(lambda _module, _given, output: seen.written.append({**output}))
        for module in modules
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _rows(features: Features) -> list[Row]:
    ids, there = features["input_ids"].cpu().numpy(), _there(features)
    if there is None:
        texts = np.split(ids, features["offsets"].cpu().numpy()[1:])
        return [Row(tuple(text.tolist()), (0,) * len(text), len(text)) for text in texts]
    types = features["token_type_ids"].cpu().numpy() if "token_type_ids" in features else np.zeros_like(ids)
    attended = features["attention_mask"].sum(1).tolist()
    return [
        Row(tuple(ids[row][on].tolist()), tuple(types[row][on].tolist()), count)
        for row, (on, count) in enumerate(zip(there, attended, strict=True))
    ]


def _there(features: Features) -> Array | None:
    """Which tokens are a row's, bool ``[rows, length]``."""
    if "offsets" in features:  # a StaticEmbedding's texts lie end to end
        return None
    there = features["attention_mask"].bool()
    if (expanded := features.get("query_expansion_positions")) is not None:
        there = there | expanded.bool()
    return np.asarray(there.cpu().numpy())
