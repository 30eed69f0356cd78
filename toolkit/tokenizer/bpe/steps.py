"""The steps of a BPE tokenizer, over bytes or over characters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from toolkit.tokenizer.added import Passes
from toolkit.tokenizer.bpe.compiled import compiled_bytepairs
from toolkit.tokenizer.bpe.compiler import NUL
from toolkit.tokenizer.bpe.marks import BREAK
from toolkit.tokenizer.bpe.spec import SPLITS, BytePairModel
from toolkit.tokenizer.bpe.whole_spec import CharacterPairModel
from toolkit.tokenizer.characters import CODE_POINTS
from toolkit.tokenizer.charmap import UNCHANGED, charmap_model
from toolkit.tokenizer.composition import ComposeCharacters
from toolkit.tokenizer.seen import SeenWords, digest
from toolkit.tokenizer.spec import TokenizerSpec
from toolkit.tokenizer.steps import AddSpecialTokens, Buffer, RegexStep, Step, Tokens, listed

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["BytePairs", "CharacterPairs", "ReplaceBroken", "SplitText", "bytepair_steps", "character_pair_steps"]


@dataclass(frozen=True)
class ReplaceBroken(Step):
    """Replace broken UTF-8 as ``bytes.decode("utf-8", "replace")`` does; all else stays as it is, but that spaces get a
    mark in front if ``spaces_marked``."""

    spaces_marked: bool = False

    def buffers(self) -> tuple[Buffer, ...]:
        index = np.full(CODE_POINTS, UNCHANGED, np.int32)
        if self.spaces_marked:
            index[ord(" ")] = 1
        strings = [text.encode("utf-8", "surrogatepass") for text in ("\ufffd", f"{BREAK} ")]
        return (np.frombuffer(charmap_model(strings, index, 0), np.uint8),)

    def apply(self, value: tf.Tensor, *buffers: tf.Tensor) -> tf.Tensor:
        from tensorflow_text.python.ops.fast_bert_normalizer import gen_fast_bert_normalizer

        text, _, _ = gen_fast_bert_normalizer.fast_bert_normalize(
            input_values=value, fast_bert_normalizer_model=buffers[0], get_offsets=False
        )
        return text

    def __str__(self) -> str:
        return "replace broken UTF-8 by U+FFFD" + (", a mark before each space" if self.spaces_marked else "")


@dataclass(frozen=True)
class SplitText(RegexStep):
    """Put a mark after every part of a text."""


@dataclass(frozen=True)
class BytePairs(Step):
    """Look up the parts that are tokens, and merge the bytes of each different other one, unless it was seen before.

    Buffers: the look-up kernel's model, the token ids of its words and then of the pieces.
    """

    words: bytes = field(repr=False)
    word_ids: npt.NDArray[np.int32] = field(repr=False)
    pieces: bytes = field(repr=False)
    piece_ids: npt.NDArray[np.int32] = field(repr=False)
    merges: int
    whole_parts: bool
    seen: SeenWords = field(default=SeenWords(), repr=False)

    def buffers(self) -> tuple[Buffer, ...]:
        return np.frombuffer(self.words, np.uint8), self.word_ids, self.piece_ids

    def apply(self, value: tf.Tensor, *buffers: tf.Tensor) -> Tokens:
        import tensorflow as tf
        from tensorflow_text.python.ops.fast_wordpiece_tokenizer import gen_fast_wordpiece_tokenizer

        model, word_ids, piece_ids = buffers
        split = tf.raw_ops.StringSplitV2(input=value, sep=BREAK.encode("utf-8", "surrogatepass"))
        rows = tf.searchsorted(split.indices[:, 0], tf.range(tf.size(value, tf.int64) + 1))
        # One result for each part that is not empty.
        _, found, places, _, _ = gen_fast_wordpiece_tokenizer.fast_wordpiece_tokenize_with_offsets(
            input_values=split.values, wp_model=model
        )
        row_splits = tf.gather(places, rows)
        known = tf.not_equal(found, len(self.word_ids) - 2)

        def merged() -> tuple[tf.Tensor, tf.Tensor]:
            unknown = tf.where(~known)
            parts = tf.gather(tf.where(places[1:] > places[:-1])[:, 0], unknown[:, 0])
            unique, number = tf.unique(tf.gather(split.values, parts))
            seen = self.seen.look_up(self.digest, unique, lambda some: self._merge(some, piece_ids))
            # Each known part is a range of one among the ids of all parts, followed by those of the merged ones.
            count = tf.size(found)
            at = tf.range(count)
            starts = tf.tensor_scatter_nd_update(at, unknown, tf.gather(seen.starts, number) + count)
            ends = tf.tensor_scatter_nd_update(at + 1, unknown, tf.gather(seen.ends, number) + count)
            ranges = tf.raw_ops.RaggedRange(starts=starts, limits=ends, deltas=tf.constant(1), Tsplits=tf.int64)
            every = tf.concat([tf.gather(word_ids, found), seen.token_ids], 0)
            return tf.gather(every, ranges.rt_dense_values), tf.gather(ranges.rt_nested_splits, row_splits)

        return Tokens(*tf.cond(tf.reduce_all(known), lambda: (tf.gather(word_ids, found), row_splits), merged))

    @property
    def digest(self) -> str:
        """A name for all that the tokens of a merged part depend on."""
        return digest((np.frombuffer(self.pieces, np.uint8), self.piece_ids), type(self).__name__)

    def _merge(self, parts: tf.Tensor, piece_ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The token ids of the parts end to end, and where those of each part begin and end."""
        import tensorflow as tf
        from tensorflow_text.python.ops.sentencepiece_tokenizer import gen_sentencepiece_tokenizer as kernels

        pieces, splits = kernels.sentencepiece_tokenize_op(
            sp_handle=kernels.sentencepiece_op(model=self.pieces),
            input=self._symbols(parts),
            nbest_size=0,
            alpha=1.0,
            add_bos=False,
            add_eos=False,
            reverse=False,
        )
        return tf.gather(piece_ids, pieces), tf.cast(splits, tf.int32)

    def _symbols(self, parts: tf.Tensor) -> tf.Tensor:
        """The parts with a character for each of the symbols that are merged: here for each byte."""
        import tensorflow as tf

        text = tf.strings.unicode_transcode(parts, "ISO-8859-1", "UTF-8")
        return tf.strings.regex_replace(text, r"\x{0}", NUL)

    def __str__(self) -> str:
        whole = "; a part that is a token stays whole" if self.whole_parts else ""
        return f"byte pair encoding: {self.merges:,} merges, {len(self.piece_ids):,} tokens{whole}"


@dataclass(frozen=True)
class CharacterPairs(BytePairs):
    """Look up the parts that are tokens, and merge the characters of each different other one."""

    def _symbols(self, parts: tf.Tensor) -> tf.Tensor:
        return parts

    def __str__(self) -> str:
        return f"{super().__str__()}, over characters"


def bytepair_steps(spec: TokenizerSpec) -> tuple[Step, ...]:
    """The whole chain. Raises :class:`~toolkit.errors.UnsupportedError` for what only the tables show to be inexact."""
    model = spec.model
    assert isinstance(model, BytePairModel)
    compiled = compiled_bytepairs(spec)
    steps: list[Step] = [ReplaceBroken()]
    steps += _finding(
        "find in the text", [t.content for t in spec.added_tokens if not t.normalized], compiled.raw_passes
    )
    if compiled.composition is not None and model.form is not None:
        steps.append(ComposeCharacters(model.form, compiled.composition, marked=bool(compiled.raw_passes)))
    late = [token.content for token in spec.added_tokens if token.normalized]
    steps += _finding("find in the normalized text", late, compiled.late_passes)
    (kind,) = (name for name, pattern in SPLITS.items() if pattern == model.split)
    prefix = f", a space in front of the {model.prefixed}" if model.prefixed else ""
    prefix += "".join(f", after {pattern}" for pattern in model.earlier)
    steps.append(SplitText(f"split as {kind} does{prefix}: {model.split}", compiled.split_passes))
    steps.append(
        BytePairs(
            compiled.words,
            compiled.word_ids,
            compiled.pieces,
            compiled.piece_ids,
            len(model.merges),
            model.whole_parts,
        )
    )
    steps.append(AddSpecialTokens(spec.template.before, spec.template.after, spec.max_length, spec.truncation_side))
    return tuple(steps)


def character_pair_steps(spec: TokenizerSpec) -> tuple[Step, ...]:
    """The whole chain. Raises :class:`~toolkit.errors.UnsupportedError` for what only the tables show to be inexact."""
    model = spec.model
    assert isinstance(model, CharacterPairModel)
    compiled = compiled_bytepairs(spec)
    raw, late = ([token.content for token in spec.added_tokens if token.normalized == late] for late in (False, True))
    steps: list[Step] = [ReplaceBroken(compiled.spaces_marked)]
    steps += _finding("find in the text", raw, compiled.raw_passes)
    if model.changes:
        steps.append(RegexStep(f"normalize: {', '.join(map(str, model.changes))}", compiled.normal_passes))
    steps += _finding("find in the normalized text", late, compiled.late_passes)
    before = f"{model.metaspace}, split" if model.metaspace is not None else "split"
    steps.append(SplitText(f"{before} where no merge crosses", compiled.split_passes))
    tables = (compiled.words, compiled.word_ids, compiled.pieces, compiled.piece_ids)
    steps.append(CharacterPairs(*tables, len(model.merges), model.whole_parts))
    steps.append(AddSpecialTokens(spec.template.before, spec.template.after, spec.max_length, spec.truncation_side))
    return tuple(steps)


def _finding(title: str, contents: list[str], passes: Passes) -> list[Step]:
    return [RegexStep(f"{title}: {listed(contents)}", passes)] if contents else []
