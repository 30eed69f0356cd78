"""Normalization to NFC, NFD, NFKC and NFKD, by tables asked of the tokenizer itself, so that no Unicode version of the
server matters.

Hardly any text changes, so texts with nothing to compose, decompose or reorder are passed on. The others are
decomposed by a character map, and their code points are sorted and composed with array ops: first the marks of each
starter by their combining class, then the first pair of each run that composes, until there is none. NFD and NFKD end
before composition.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from toolkit.errors import UnsupportedError
from toolkit.tokenizer.bpe.marks import END, START, pattern_of
from toolkit.tokenizer.cache import Arrays
from toolkit.tokenizer.characters import CODE_POINTS
from toolkit.tokenizer.charmap import UNCHANGED, charmap_model
from toolkit.tokenizer.patterns import character_class
from toolkit.tokenizer.steps import Buffer, Step

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["ComposeCharacters", "Composition", "Form", "compile_composition"]

Form = Literal["NFC", "NFD", "NFKC", "NFKD"]
"""Unicode's normalization forms; those with a K replace characters for compatibility (``ﬁ``) as well."""

_BLOCK = 256
_SECOND = 0x80  # added to the class of characters that can be composed with one before them
_HANGUL = range(0xAC00, 0xD7A4)
# In texts that are changed, marks are this character and a digit. It is inert, and so are the digits.
_ESCAPE = "\U000f0000"
_BETWEEN = "\x01"  # no normal form contains it


@dataclass(frozen=True)
class Composition:
    """``decompose``: a character map; ``blocks``, ``classes``: the combining class of a code point, densely numbered,
    in two levels; ``pairs`` (ascending, first code point << 21 | second) and ``composed``: what two become; ``due``: a
    pattern for texts that may change; ``runs``: passes that compose characters that can be both first and second.
    """

    decompose: npt.NDArray[np.uint8] = field(repr=False)
    blocks: npt.NDArray[np.int32] = field(repr=False)
    classes: npt.NDArray[np.int32] = field(repr=False)
    pairs: npt.NDArray[np.int64] = field(repr=False)
    composed: npt.NDArray[np.int32] = field(repr=False)
    due: npt.NDArray[np.uint8] = field(repr=False)
    runs: npt.NDArray[np.int32] = field(repr=False)

    def to_arrays(self) -> Arrays:
        """All of it as arrays."""
        return dict(vars(self))

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Composition:
        """The inverse of :meth:`to_arrays`. Raises ``KeyError`` for other arrays."""
        return cls(**{name: arrays[name] for name in cls.__dataclass_fields__})


def compile_composition(file: str, form: Form) -> Composition:
    """Ask the tokenizers package's normalizers for everything that ``form`` does. ``file`` is named in a refusal."""
    from tokenizers import normalizers

    compose, decompose = normalizers.NFC().normalize_str, normalizers.NFD().normalize_str
    whole = getattr(normalizers, form)().normalize_str
    composes = form in ("NFC", "NFKC")
    points = [*range(0x80, _HANGUL.start), *range(_HANGUL.stop, 0xD800), *range(0xE000, CODE_POINTS)]
    canonical = dict(_changed(decompose, points))
    firsts_to_composed: dict[tuple[int, int], int] = {}
    for point, parts in canonical.items():
        if compose(chr(point)) == chr(point):  # else excluded from composition
            first, second = compose(parts[:-1]), parts[-1]
            if len(first) != 1 or compose(first + second) != chr(point):
                raise UnsupportedError(file, "normalizer", f"{form} of U+{point:04X}", "composition by pairs")
            firsts_to_composed[ord(first), ord(second)] = point
    for point in _HANGUL:
        parts = decompose(chr(point))
        firsts_to_composed[ord(compose(parts[:-1])), ord(parts[-1])] = point
    order = _classes(decompose, points)
    seconds = {second for _, second in firsts_to_composed}
    for head, last in firsts_to_composed:
        inner = canonical.get(head, "")
        if last in order and any(order.get(ord(mark), 0) > order[last] for mark in inner):
            raise UnsupportedError(file, "normalizer", f"{form} of U+{head:04X}", "composition in canonical order")
    chained = sorted({first for first, _ in firsts_to_composed} & {c for c in seconds if c not in order})
    runs = [
        [ord(c) for c in parts] + [0] * (4 - len(parts)) + [point]
        for point, parts in sorted(canonical.items(), key=lambda item: -len(item[1]))
        if composes and compose(chr(point)) == chr(point) and ord(parts[-1]) in chained
    ]
    table = np.zeros(CODE_POINTS, np.int32)
    table[list(order)] = list(order.values())
    table[list(seconds)] += _SECOND
    different: dict[bytes, int] = {}
    blocks = [different.setdefault(block.tobytes(), len(different)) for block in table.reshape(-1, _BLOCK)]
    decomposed = canonical if form == "NFC" else _decomposed(form, points)
    index = np.full(CODE_POINTS, UNCHANGED, np.int32)
    index[list(decomposed)] = range(len(decomposed))
    strings = [parts.encode() for parts in decomposed.values()]
    model = charmap_model([*strings, "\ufffd".encode()], index, len(strings))
    changed = {c for c in decomposed if whole(chr(c)) != chr(c)}
    ends = {*order, *(c for c, parts in decomposed.items() if ord(parts[-1]) in order)}
    pairs = sorted(firsts_to_composed) if composes else []
    due = _due(changed, pairs, order, ends)
    return Composition(
        decompose=np.frombuffer(model, np.uint8),
        blocks=np.array(blocks, np.int32),
        classes=np.frombuffer(b"".join(different), np.int32),
        pairs=np.array([first << 21 | second for first, second in pairs], np.int64),
        composed=np.array([firsts_to_composed[pair] for pair in pairs], np.int32),
        due=np.frombuffer(due.encode(), np.uint8),
        runs=np.array(runs, np.int32).reshape(-1, 5),
    )


def _decomposed(form: Form, points: list[int]) -> dict[int, str]:
    """The characters that ``form`` decomposes. Syllables of Hangul are composed of pairs as they are."""
    from tokenizers import normalizers

    if form in ("NFC", "NFKC"):
        return dict(_changed(normalizers.NFKD().normalize_str, points))
    return dict(_changed(getattr(normalizers, form)().normalize_str, sorted([*points, *_HANGUL])))


def _due(changed: set[int], composed: Iterable[tuple[int, int]], order: Iterable[int], ends: Iterable[int]) -> str:
    """A pattern for texts in which something may compose, decompose or change places.

    ``order`` are the marks, ``ends`` all characters that are or end in a mark.
    """
    firsts: defaultdict[int, set[int]] = defaultdict(set)
    for first, second in composed:
        firsts[second].add(first)
    seconds: defaultdict[frozenset[int], set[int]] = defaultdict(set)
    for second, before in firsts.items():
        seconds[frozenset(before)].add(second)
    due = [character_class(changed)]
    due += [character_class(before) + character_class(after) for before, after in seconds.items()]
    # After a mark, another one may change places with it or compose over it.
    due.append(character_class(ends) + character_class(order))
    return rf"\C*(?:{'|'.join(due)})\C*"


def _changed(normalize: Any, points: list[int], *, before: str = "", after: str = "") -> Iterator[tuple[int, str]]:
    """The characters among ``points`` that change, beside these others, with the normal form of all."""
    for at in range(0, len(points), 4096):
        characters = "".join(map(chr, points[at : at + 4096]))
        text = f"{before}{f'{after}{_BETWEEN}{before}'.join(characters)}{after}"
        forms = normalize(text)
        if forms == text:
            continue
        for character, form in zip(characters, forms.split(_BETWEEN), strict=True):
            if form != f"{before}{character}{after}":
                yield ord(character), form


def _classes(decompose: Any, points: list[int]) -> dict[int, int]:
    """Combining marks with the place of their combining class among all classes, from 1 on.

    Two marks change places where the first one has the higher class.
    """
    low, high = "\u0334", "\u0345"  # of the lowest class and of the highest one
    moved = {point for point, form in _changed(decompose, points, after=low) if form[:1] == low}
    moved |= {point for point, form in _changed(decompose, points, before=high) if form[-1:] == high}
    marks = sorted(point for point in moved | {ord(low), ord(high)} if decompose(chr(point)) == chr(point))
    known: list[int] = []  # one mark of each class, in order
    place: dict[int, int] = {}
    for mark in marks:

        def follows(other: int, mark: int = mark) -> bool:
            return bool(decompose(chr(mark) + chr(other)) == chr(other) + chr(mark) != chr(mark) + chr(other))

        def precedes(other: int, mark: int = mark) -> bool:
            return bool(decompose(chr(other) + chr(mark)) == chr(mark) + chr(other) != chr(other) + chr(mark))

        at = sum(follows(other) for other in known)
        if at == len(known) or precedes(known[at]):
            known.insert(at, mark)
            place = {m: number + (number >= at) for m, number in place.items()}
        place[mark] = at
    return {mark: number + 1 for mark, number in place.items()}


@dataclass(frozen=True)
class ComposeCharacters(Step):
    """Normalize to ``form``. ``marked``: there may be marked tokens in the text."""

    form: Form
    tables: Composition = field(repr=False)
    marked: bool = False

    def buffers(self) -> tuple[Buffer, ...]:
        tables = self.tables
        return tables.decompose, tables.blocks, tables.classes, tables.pairs, tables.composed

    def apply(self, value: tf.Tensor, *buffers: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        due = tf.strings.regex_full_match(value, self.tables.due.tobytes())

        def changed() -> tf.Tensor:
            texts = self._normalized(tf.boolean_mask(value, due), *buffers)
            return tf.tensor_scatter_nd_update(value, tf.where(due), texts)

        return tf.cond(tf.reduce_any(due), changed, lambda: value)

    def _normalized(self, text: tf.Tensor, *buffers: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf
        from tensorflow_text.python.ops.fast_bert_normalizer import gen_fast_bert_normalizer

        decompose, *tables = buffers
        codes = [(START, f"{_ESCAPE}1"), (END, f"{_ESCAPE}2"), (_ESCAPE, f"{_ESCAPE}0")]
        if self.marked:
            text = tf.strings.regex_replace(text, *codes[2])
            for mark, code in codes[:2]:
                text = tf.strings.regex_replace(text, pattern_of(mark), code)
        text, _, _ = gen_fast_bert_normalizer.fast_bert_normalize(
            input_values=text, fast_bert_normalizer_model=decompose, get_offsets=False
        )
        for *form, composed in self.tables.runs.tolist():
            text = tf.strings.regex_replace(text, "".join(chr(c) for c in form if c), chr(composed))
        points = tf.strings.unicode_decode(text, "UTF-8")
        values, rows = _composed(points.values, tf.cast(points.value_rowids(), tf.int32), *tables)
        splits = tf.searchsorted(rows, tf.range(tf.size(text) + 1))
        text = tf.strings.unicode_encode(tf.RaggedTensor.from_row_splits(values, splits, validate=False), "UTF-8")
        if self.marked:
            for mark, code in codes:
                text = tf.strings.regex_replace(text, code, mark.encode("utf-8", "surrogatepass"))
        return text

    def __str__(self) -> str:
        return f"normalize to {self.form}: {len(self.tables.pairs):,} pairs compose"


def _composed(
    points: tf.Tensor, rows: tf.Tensor, blocks: tf.Tensor, classes: tf.Tensor, pairs: tf.Tensor, composed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decomposed code points (int32 [n]) sorted and, if there are ``pairs``, composed, and the row of each."""
    import tensorflow as tf

    kind = tf.gather(classes, tf.gather(blocks, points // _BLOCK) * _BLOCK + points % _BLOCK)
    order, second = kind % _SECOND, kind >= _SECOND
    first = tf.concat([[True], rows[1:] != rows[:-1]], 0)[: tf.size(rows)]
    # A run: a starter with its marks, and what of the rest could be composed with it.
    place = tf.range(tf.size(points, tf.int64))
    starter = tf.cast(tf.cumsum(tf.cast(first | (order == 0), tf.int32)), tf.int64)
    run = tf.cumsum(tf.cast(first | ((order == 0) & ~second), tf.int32))
    key = (starter * _SECOND + tf.cast(order, tf.int64)) * tf.size(points, tf.int64) + place
    by_class = tf.argsort(key)
    points, order = tf.gather(points, by_class), tf.gather(order, by_class)
    if pairs.shape[0] == 0:
        return points, rows

    def step(points: tf.Tensor, order: tf.Tensor, rows: tf.Tensor, run: tf.Tensor, _: tf.Tensor) -> Any:
        at = tf.range(tf.size(points))
        starters = tf.boolean_mask(at, order == 0)
        # The last starter before each code point (the one before the first is itself).
        number = tf.cumsum(tf.cast(order == 0, tf.int32), exclusive=True) - 1
        base = tf.gather(tf.concat([starters, [0]], 0), tf.maximum(number, 0))
        before = tf.maximum(at - 1, 0)
        previous = tf.gather(order, before)
        free = (number >= 0) & (tf.gather(run, base) == run) & ((previous == 0) | (previous < order))
        wanted = tf.cast(tf.gather(points, base), tf.int64) * 2**21 + tf.cast(points, tf.int64)
        found = tf.minimum(tf.searchsorted(pairs, wanted), tf.size(pairs) - 1)
        hits = tf.boolean_mask(at, free & (tf.gather(pairs, found) == wanted))
        runs = tf.gather(run, hits)
        hits = tf.boolean_mask(hits, tf.concat([[True], runs[1:] != runs[:-1]], 0)[: tf.size(hits)])
        points = tf.tensor_scatter_nd_update(
            points, tf.gather(base, hits)[:, None], tf.gather(composed, tf.gather(found, hits))
        )
        keep = tf.tensor_scatter_nd_update(tf.ones_like(points, tf.bool), hits[:, None], tf.zeros_like(hits, tf.bool))
        kept = (tf.boolean_mask(values, keep) for values in (points, order, rows, run))
        return (*kept, tf.size(hits) > 0)

    points, _, rows, _, _ = tf.while_loop(
        lambda *state: state[-1],
        step,
        (points, order, rows, run, tf.constant(True)),
        shape_invariants=(tf.TensorShape([None]),) * 4 + (tf.TensorShape([]),),
    )
    return points, rows
