"""Grapheme clusters, as far as a precompiled character map sees them.

The ``tokenizers`` package applies such a map to each extended grapheme cluster. One of less than six bytes is looked up
as a whole: the shortest key that it begins with replaces all of it. Only if there is none, and in longer clusters, each
character is looked up by itself. So a mark after a character of the map is lost (``ﬁ`` and an accent become ``fi``),
and a letter and a mark which are a key together are composed, but not if a second mark follows.

What matters is therefore: which characters attach to the one before, and before and after which they do so in another
way than by being a mark. No table of ours says that, the tokenizer itself is asked.

Regular expressions put ``END`` after each run of attaching characters, ``JOINED`` before the run of a cluster that is
longer than it looks (it begins with an Arabic number sign, say), and then find the short clusters.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from toolkit.tokenizer.patterns import character_class, literal
from toolkit.tokenizer.unigram.charsmap import LIMIT

__all__ = ["Clusters", "Signs"]

_ACUTE = "\u0301"  # a mark of two bytes
_BLOCK = 4096
_SURROGATES = range(0xD800, 0xE000)
_ALL = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]


@dataclass(frozen=True)
class Signs:
    """Characters that the text does not contain. ``apart`` are others, which are no part of it (any mark after one
    begins a cluster)."""

    end: str
    joined: str
    composed: str
    apart: str


def _size(text: str) -> int:
    return len(text.encode())


@dataclass(frozen=True)
class Clusters:
    """``normalize`` applies a precompiled map with these ``rules`` (see ``read_charsmap``)."""

    normalize: Callable[[str], str] = field(repr=False)
    rules: dict[str, str] = field(repr=False)

    @cached_property
    def _table(self) -> dict[int, str]:
        return {ord(key): form for key, form in self.rules.items() if len(key) == 1}

    def _apart(self, text: str) -> str:
        return text.translate(self._table)

    def _whole(self, cluster: str) -> str:
        """What becomes of a short cluster."""
        for size in range(1, len(cluster) + 1):
            if cluster[:size] in self.rules:
                return self.rules[cluster[:size]]
        return self._apart(cluster)

    @cached_property
    def keys(self) -> list[str]:
        """Single characters after which marks are lost."""
        return [
            key
            for key in self.rules
            if len(key) == 1 and _size(key) <= LIMIT - 2 and self.normalize(key + _ACUTE) == self.rules[key]
        ]

    @cached_property
    def pairs(self) -> dict[str, str]:
        """Keys of several characters that are clusters, with what they become."""
        return {
            key: form
            for key, form in self.rules.items()
            if len(key) > 1 and key != "\r\n" and form != self._apart(key) and self.normalize(key) == form
        }

    @cached_property
    def _probe(self) -> str | None:
        """A cluster of which something is lost, that any character after it which attaches makes a long one."""
        candidates = [*self.keys, *self.pairs]
        for key in candidates:
            while _size(key) < LIMIT - 1:
                key += _ACUTE
            # One that begins with no mark, if there is any: it tells as much of characters before it.
            if self.normalize("a" + key) == self._apart("a") + self._whole(key) or key[0] == candidates[-1][0]:
                return key
        return None

    @cached_property
    def attaching(self) -> set[str]:
        """Characters that attach to any one before (marks, joiners)."""
        return self._long(self._joiners, self._probe, "") if self._probe else set()

    @cached_property
    def _prepended(self) -> set[str]:
        """Characters that any one after attaches to."""
        return self._long(self._joiners, "", self._probe) - self.attaching if self._probe else set()

    @cached_property
    def _joiners(self) -> list[str]:
        """Characters among which are all that attach to a cluster before them or that a cluster after them joins."""
        probe = self._probe or ""
        whole = self._whole(probe)
        return [
            character
            for block, forms in self._blocks
            if self.normalize(f"{probe}{probe.join(block)}{probe}") != f"{whole}{whole.join(forms)}{whole}"
            for character in block
        ]

    @cached_property
    def initial(self) -> list[str]:
        """``keys`` that are no marks themselves."""
        return [key for key in self.keys if key not in self.attaching]

    @cached_property
    def _examples(self) -> dict[str, str]:
        """Short clusters that are not the same as their characters, by their first character."""
        return {key[0]: key for key in self.pairs} | {key: key + _ACUTE for key in self.initial}

    @cached_property
    def _signs(self) -> list[str]:
        """Characters without a meaning (the last two of each plane) that the map does not know."""
        known = set().union(*self.rules, *self.rules.values())
        return [
            c for plane in range(17) for c in map(chr, (plane << 16 | 0xFFFE, plane << 16 | 0xFFFF)) if c not in known
        ]

    @cached_property
    def _blocks(self) -> list[tuple[list[str], list[str]]]:
        """All characters, many at a time since most of them are alike, and what becomes of each by itself."""
        blocks = [_ALL[start : start + _BLOCK] for start in range(0, len(_ALL), _BLOCK)]
        changed = sorted(self._table)
        return [
            (block, [self._table.get(ord(c), c) for c in block])
            if bisect_left(changed, ord(block[0])) < bisect_right(changed, ord(block[-1]))
            else (block, block)
            for block in blocks
        ]

    @cached_property
    def _bases(self) -> list[tuple[list[str], list[str]]]:
        """The same without those that attach to the ones before. A cluster before any of these ends there."""
        marks = self.attaching
        return [
            (block, forms)
            if marks.isdisjoint(block)
            else (
                [c for c in block if c not in marks],
                [f for c, f in zip(block, forms, strict=True) if c not in marks],
            )
            for block, forms in self._blocks
        ]

    def _joining(self, middle: str, example: str) -> set[str]:
        """Which characters, of those that attach to none, make one long cluster with ``middle`` after them and the
        cluster ``example``."""
        found: set[str] = set()
        for block, joined in self._asked(middle, example):
            if joined is None:
                found |= self._long(block, "", middle + example)
            elif joined:
                found.update(block)
        return found

    def _ending(self, example: str) -> list[str]:
        """Which characters the cluster ``example``, which begins with a mark, does not attach to, in order."""
        found: set[str] = set()
        for block, joined in (*self._asked("", example), (sorted(self.attaching), None)):
            if not joined:
                found.update(block)
            if joined is None:
                found -= self._long(block, "", example)
        return sorted(found)

    def _asked(self, middle: str, example: str) -> Iterator[tuple[list[str], bool | None]]:
        """Blocks of characters that attach to none, and whether they make long clusters with ``middle`` after them and
        the cluster ``example``: all of them, none, or (None) only some."""
        after = middle + example
        whole, apart = self._apart(middle) + self._whole(example), self._apart(after)
        for block, forms in self._bases:
            text = self.normalize(after.join([*block, ""]))
            joined = text == apart.join([*forms, ""])
            yield block, joined if joined or text == whole.join([*forms, ""]) else None

    def _long(self, some: Sequence[str], before: str, after: str) -> set[str]:
        """Which of ``some`` characters make one long cluster with what stands before or after them.

        Otherwise the cluster ends after ``before`` or, if ``after`` is several characters, some of them are one.
        """
        found: set[str] = set()
        one_before, one_after = self._apart(before), self._apart(after)
        for start in range(0, len(some), _BLOCK):
            block = some[start : start + _BLOCK]
            # Nothing joins a line's end, and this character stands nowhere else.
            line = next(f"\n{sign}\n" for sign in self._signs if sign not in block)
            text = self.normalize(f"{after}{line}{before}".join(["", *block, ""]))
            texts = text.split(self._apart(line))[1:-1]
            found.update(
                character
                for character, form in zip(block, texts, strict=True)
                if form == one_before + self._table.get(ord(character), character) + one_after
            )
        return found

    def _keeps(self, before: str, example: str) -> bool:
        """Whether ``example`` is no cluster of its own after ``before``."""
        return self.normalize(before + example) == self._apart(before + example)

    def unsupported(self) -> str | None:
        """A key whose clusters the passes would not find, if there is one."""
        for first, example in self._examples.items():
            if example in self.pairs and first in self.attaching:
                return example
            if any(self._keeps(before, example) for before in ("\u1100", "\uac00", "\uac01", "\U0001f1e6")):
                return first
            if _size(first) < 3 and self.normalize(first + "\u200d\u2764") != self._apart(first + "\u200d\u2764"):
                continue
            if first in self.rules and _size(first) < 3:
                return first
        return None

    def passes(self, signs: Signs) -> tuple[tuple[str, str], tuple[tuple[str, str], ...]]:
        """The pass that puts ``signs.end`` after runs of marks, and those that are needed where that has happened.

        After them lost marks are gone, and ``signs.composed`` stands before each of ``pairs`` that is to be composed.
        ``signs.end`` and ``signs.joined`` may still stand in the text.
        """
        marks = self.attaching
        if not marks:
            return (signs.end, signs.end), ()
        attach, end = character_class(map(ord, marks)), signs.end
        passes = [(pattern, rf"\1{signs.joined}\2") for pattern in self._joined_patterns(attach, end)]
        sizes = {size: [m for m in marks if _size(m) == size] for size in (2, 3, 4)}
        lost = {room: _runs(sizes, room) for room in (2, 3, 4)}
        starts = [key for key in self.keys if key in marks]
        if starts:
            passes.append(self._at_start(starts, lost, signs))
        alternatives = [
            f"({_class(of_size)}){lost[LIMIT - size]}{end}"
            for size in (1, 2, 3)
            if (of_size := [key for key in self.initial if _size(key) == size])
        ]
        if alternatives:
            passes.append(("|".join(alternatives), _groups(len(alternatives))))
        if self.pairs:
            passes += self._pair_passes(lost, signs)
        return (f"{attach}+", rf"\0{end}"), tuple(passes)

    def plain(self) -> tuple[str, ...]:
        """Patterns that all match a whole text of valid UTF-8 in which no cluster is replaced in another way than its
        characters: no mark comes after one of ``keys``, nor the second character of one of ``pairs`` after a first."""
        firsts, seconds = {pair[0] for pair in self.pairs}, {pair[1] for pair in self.pairs}
        return tuple(_never(first, second) for first, second in ((set(self.keys), self.attaching), (firsts, seconds)))

    def _at_start(self, starts: list[str], lost: dict[int, str], signs: Signs) -> tuple[str, str]:
        """Clusters that begin with a mark: at the start of a text and after control characters."""
        key = max(starts, key=_size)
        control = character_class(map(ord, [*self._ending(key + _ACUTE), *signs.apart]))
        alternatives = [
            f"({_class(of_size)}){lost[LIMIT - size]}"
            for size in (2, 3)
            if (of_size := [key for key in starts if _size(key) == size])
        ]
        return f"(^|{control})(?:{'|'.join(alternatives)}){signs.end}", _groups(1 + len(alternatives))

    def _pair_passes(self, lost: dict[int, str], signs: Signs) -> list[tuple[str, str]]:
        """One pass for each size of keys: a third mark is lost after small ones."""
        groups: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for key in self.pairs:
            groups[LIMIT - _size(key)][key[1:]].append(key[0])
        passes = []
        for room, tails in sorted(groups.items()):
            keys = "|".join(f"{_class(heads)}{literal(tail)}" for tail, heads in sorted(tails.items()))
            extra = f"(?:{lost[room]})?" if room in lost else ""
            passes.append((f"({keys}){extra}{signs.end}", rf"{signs.composed}\1"))
        return passes

    def _joined_patterns(self, attach: str, end: str) -> list[str]:
        """Patterns of clusters that are longer than their last character and its marks."""
        patterns: list[str] = []
        if not self._examples:
            return patterns
        if self._prepended:
            patterns.append(f"({_class(self._prepended)}{_class(self._examples)})({attach})")
        pictographic = self._joined_by("\u2764\u200d")
        if pictographic:
            example = self._examples[pictographic[0]]
            before = self._joining("\u200d", example)
            # Not every mark: after a spacing one, and after a second joiner, a cluster begins.
            inside = {m for m in self.attaching if self._keeps(f"\u2764{m}\u200d", example)}
            chain = f"{_class(before)}{_class(inside)}*\u200d{end}"
            patterns.append(f"({chain}(?:{chain})*{_class(pictographic)})({attach})")
        consonants = self._joined_by("\u0915\u094d")
        if consonants:
            example = self._examples[consonants[0]]
            before = self._joining("\u094d", example)
            linkers = {m for m in self.attaching if self._keeps("\u0915" + m, example)}
            inside = {m for m in self.attaching if self._keeps(f"\u0915{m}\u094d", example)}
            chain = f"{_class(before)}{_class(inside)}*{_class(linkers)}{_class(inside)}*{end}"
            patterns.append(f"({chain}(?:{chain})*{_class(consonants)})({attach})")
        return patterns

    def _joined_by(self, before: str) -> list[str]:
        """First characters of clusters that ``before`` joins to itself."""
        return [first for first, example in self._examples.items() if self._keeps(before, example)]


def _never(first: set[str], second: set[str]) -> str:
    """A pattern of valid UTF-8 without any one of ``first`` before one of ``second``."""
    if not (first and second):
        return character_class(_SURROGATES, negated=True) + "*"
    other = character_class([*map(ord, first), *_SURROGATES], negated=True)
    neither = character_class([*map(ord, first | second), *_SURROGATES], negated=True)
    run = _class(first) + (f"{_class(first - second)}*" if first - second else "")
    return f"(?:{other}|{run}{neither})*(?:{run})?"


def _class(characters: Iterable[str]) -> str:
    return character_class(map(ord, characters))


def _groups(count: int) -> str:
    """A rewrite that leaves all captured; a group that does not exist would make the pass do nothing."""
    return "".join(rf"\{number}" for number in range(1, count + 1))


def _runs(sizes: dict[int, list[str]], room: int) -> str:
    """A pattern of one or more marks of at most ``room`` bytes together."""
    single = _class([m for size in range(2, room + 1) for m in sizes[size]])
    return f"(?:{single}|{_class(sizes[2])}{{2}})" if room >= 4 else single
