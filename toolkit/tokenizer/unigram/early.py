"""What is done to the text between the tokens found in it, before its characters are mapped: the first normalizers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.errors import UnsupportedError
from toolkit.tokenizer import characters
from toolkit.tokenizer.added import SPACES, Passes
from toolkit.tokenizer.cache import Arrays
from toolkit.tokenizer.characters import CODE_POINTS, DELETED, LONGER
from toolkit.tokenizer.charmap import UNCHANGED, charmap_model
from toolkit.tokenizer.composition import ComposeCharacters, Composition, Form, compile_composition
from toolkit.tokenizer.patterns import literal
from toolkit.tokenizer.steps import NormalizeCharacters, RegexStep, Step
from toolkit.tokenizer.unigram.normalizer import FORMS, REGEXES, is_by_character

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["EarlyStage", "RareRegexStep", "Surroundings", "compile_early", "regex_stage", "splitting_tokenizer"]

Node = Mapping[str, Any]


@dataclass(frozen=True)
class RareRegexStep(RegexStep):
    """A step for few texts: those that ``rare`` matches as a whole. The others stay as they are."""

    rare: str = field(repr=False)

    def apply(self, value: tf.Tensor, *buffers: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        found = tf.where(tf.strings.regex_full_match(value, self.rare))

        def replace() -> tf.Tensor:
            return tf.tensor_scatter_nd_update(value, found, self._replaced(tf.gather_nd(value, found)))

        return tf.cond(tf.size(found) > 0, replace, lambda: value)

    def _replaced(self, some: tf.Tensor) -> tf.Tensor:
        return super().apply(some)


@dataclass(frozen=True)
class EarlyStage:
    """One step: ``passes`` over the texts that ``rare`` matches, a ``charmap`` that changes so many characters, or a
    normalization ``form`` with its tables."""

    title: str
    passes: Passes = ()
    rare: str = field(default="", repr=False)
    charmap: bytes = field(default=b"", repr=False)
    changed: int = 0
    form: Form | None = None
    composition: Composition | None = None

    def step(self) -> Step:
        """The step of the graph."""
        if self.form is not None and self.composition is not None:
            return ComposeCharacters(self.form, self.composition)
        if self.charmap:
            return NormalizeCharacters(self.charmap, self.changed)
        return RareRegexStep(self.title, self.passes, self.rare)

    def to_arrays(self, prefix: str) -> Arrays:
        """All of it as arrays whose names begin with ``prefix``."""
        rest = json.dumps([self.title, self.passes, self.rare, self.changed, self.form]).encode()
        tables = self.composition.to_arrays() if self.composition is not None else {}
        buffers = {"rest": rest, "charmap": self.charmap}
        arrays = {**tables, **{name: np.frombuffer(buffer, np.uint8) for name, buffer in buffers.items()}}
        return {prefix + name: array for name, array in arrays.items()}

    @classmethod
    def from_arrays(cls, arrays: Arrays, prefix: str) -> EarlyStage:
        """The inverse of :meth:`to_arrays`. Raises ``ValueError`` or ``KeyError`` for other arrays."""
        own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        title, passes, rare, changed, form = json.loads(own["rest"].tobytes())
        composition = Composition.from_arrays(own) if form is not None else None
        pairs = tuple((pattern, rewrite) for pattern, rewrite in passes)
        return cls(title, pairs, rare, own["charmap"].tobytes(), int(changed), form, composition)


@dataclass(frozen=True)
class Surroundings:
    """What a text between two tokens found stands between: patterns for the end of one (``after``) and the beginning of
    the next (``before``), or None if there are no such tokens; and ``sign``, a character that no text contains."""

    after: str | None
    before: str | None
    sign: str

    def begins(self) -> str:
        """A pattern for the beginning of such a text."""
        return r"\A" if self.after is None else rf"\A|{self.after}"

    def ends(self) -> str:
        """A pattern for its end."""
        return r"\z" if self.before is None else rf"\z|{self.before}"


def splitting_tokenizer(found: Sequence[Node]) -> Any:
    """A tokenizer of the ``tokenizers`` package with these normalizers, which splits at white space."""
    from tokenizers import Tokenizer

    normalizer = {"type": "Sequence", "normalizers": list(found)} if found else None
    model = {"type": "WordLevel", "vocab": {"": 0}, "unk_token": ""}
    return Tokenizer.from_str(
        json.dumps({"normalizer": normalizer, "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": model})
    )


def compile_early(file: str, found: Sequence[Node], around: Surroundings) -> tuple[EarlyStage, ...]:
    """The stages for the normalizers ``found``."""

    def group(item: tuple[int, Node]) -> tuple[str, int]:
        number, part = item
        return ("characters", 0) if is_by_character(found, number) else (part["type"], number)

    def stages() -> Iterator[EarlyStage]:
        for (kind, _), members in itertools.groupby(enumerate(found), group):
            nodes = [part for _, part in members]
            if kind == "characters":
                yield _character_stage(file, nodes)
            elif kind in FORMS:
                yield EarlyStage(kind, form=nodes[0]["type"], composition=compile_composition(file, nodes[0]["type"]))
            else:
                yield _STAGES[kind](nodes[0], around)

    return tuple(stages())


def regex_stage(title: str, *passes: tuple[str, str]) -> EarlyStage:
    """A stage whose first pass tells which texts change."""
    return EarlyStage(title, passes, rf"\C*(?:{passes[0][0]})\C*")


def _replace(part: Node, _: Surroundings) -> EarlyStage:
    pattern, content = part["pattern"], part["content"]
    regex = literal(pattern["String"]) if "String" in pattern else REGEXES[pattern["Regex"]]
    (shown,) = pattern.values()
    return regex_stage(f"replace {shown!r} by {content!r}", (regex, content.replace("\\", r"\\")))


def _strip(part: Node, around: Surroundings) -> EarlyStage:
    left, right = rf"({around.begins()}){SPACES}+", rf"{SPACES}+({around.ends()})"
    wanted = [(name, regex) for name, regex in (("left", left), ("right", right)) if part[f"strip_{name}"]]
    title = f"strip white space on the {' and '.join(name for name, _ in wanted)}"
    passes = tuple((regex, r"\1") for _, regex in wanted)
    return EarlyStage(title, passes, rf"\C*(?:{'|'.join(regex for _, regex in wanted)})\C*")


def _prepend(part: Node, around: Surroundings) -> EarlyStage:
    """Every text that is not empty."""
    content, sign = part["prepend"].replace("\\", r"\\"), around.sign
    return regex_stage(
        f"put {part['prepend']!r} before",
        (around.begins(), rf"\0{sign}"),
        (rf"{sign}({around.ends()})", r"\1"),
        (sign, content),
    )


_STAGES: Mapping[str, Callable[[Node, Surroundings], EarlyStage]] = {
    "Replace": _replace,
    "Strip": _strip,
    "Prepend": _prepend,
}


def _character_stage(file: str, found: Sequence[Node]) -> EarlyStage:
    table = characters.probe(splitting_tokenizer(found))
    strings: dict[str, int] = {"": 0, "\ufffd": 1}
    index = np.full(CODE_POINTS, UNCHANGED, np.int32)
    index[table.single == DELETED] = 0
    index[0xD800:0xE000] = UNCHANGED
    for code_point in np.flatnonzero((table.single >= 0) & (table.single != np.arange(CODE_POINTS))).tolist():
        index[code_point] = strings.setdefault(chr(table.single[code_point]), len(strings))
    for code_point in np.flatnonzero(table.single == LONGER).tolist():
        index[code_point] = strings.setdefault(table.longer[code_point], len(strings))
    invalid = 1 if index[0xFFFD] == UNCHANGED else int(index[0xFFFD])
    try:
        model = charmap_model([string.encode() for string in strings], index, invalid)
    except ValueError as error:
        raise UnsupportedError(file, "normalizer", str(error), "normal forms of 63 bytes a character") from error
    return EarlyStage(", ".join(part["type"] for part in found), charmap=model, changed=int((index != UNCHANGED).sum()))
