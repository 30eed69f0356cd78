"""A tokenizer graph and the ``tokenizers`` package, side by side."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from toolkit.tokenizer.spec import TokenizerSpec, reference_tokenizer

if TYPE_CHECKING:
    from toolkit.tokenizer.graph import TokenizerGraph

__all__ = ["Comparison", "Text", "decoded"]

Text = str | bytes
# Of so many texts one is given to the original's own cut and template, where it has nothing to cut.
_ASKED = 16


class Comparison:
    """Compares a graph with the ``tokenizers`` package, text by text."""

    def __init__(self, spec: TokenizerSpec, graph: TokenizerGraph) -> None:
        self.spec, self.graph = spec, graph
        self.cut = reference_tokenizer(spec)
        self.full = reference_tokenizer(spec, max_length=None)
        self.added = {token.id for token in spec.added_tokens} - {spec.model.unk_id}
        self.special = spec.template.size

        def run(text: tf.Tensor) -> Any:
            values = [value for _, value in graph.trace(text)]
            return values[-2], values[-1]

        self.run = tf.function(run, input_signature=[tf.TensorSpec([None], tf.string)])

    def differing(self, batch: Sequence[Text], *, whole: bool = True) -> list[int]:
        """Which texts of ``batch`` the graph tokenizes differently: their tokens and, if ``whole``, the packed rows."""
        tokens, packed = self.run(tf.constant(list(batch), tf.string))
        plain = [decoded(text) for text in batch]
        # Untruncated rows with special tokens differ from those without by what the template adds, so one will do.
        expected = [row.ids for row in self.full.encode_batch_fast(plain, add_special_tokens=False)]
        bad = set(_differing_rows(tokens.ids.numpy(), tokens.row_splits.numpy(), expected))
        if whole:
            cut = self._cut(plain, expected)
            bad.update(_differing_rows(packed.ids.numpy(), packed.row_splits.numpy(), cut))
            lengths = np.fromiter(map(len, expected), np.int64, len(expected)) + self.special
            bad.update(np.flatnonzero(lengths != packed.num_tokens.numpy()).tolist())
        return sorted(bad)

    def _cut(self, texts: Sequence[str], tokens: Sequence[list[int]]) -> list[list[int]]:
        """The rows that the original cuts and puts into its template. It is asked for those that are too long, and for
        a few of all; the others are their ``tokens`` in the template."""
        limit = None if self.spec.max_length is None else self.spec.max_length - self.special
        before, after = ([token for _, token in part] for part in (self.spec.template.before, self.spec.template.after))
        rows = [[*before, *row, *after] for row in tokens]
        asked = [
            number
            for number, row in enumerate(tokens)
            if number % _ASKED == 0 or (limit is not None and len(row) > limit)
        ]
        for number, row in zip(asked, self.cut.encode_batch_fast([texts[number] for number in asked]), strict=True):
            rows[number] = row.ids
        return rows


def decoded(text: Text) -> str:
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else text


def _differing_rows(ids: npt.NDArray[Any], splits: npt.NDArray[Any], expected: Sequence[Sequence[int]]) -> list[int]:
    lengths = np.fromiter(map(len, expected), np.int64, len(expected))
    flat = np.fromiter(itertools.chain.from_iterable(expected), np.int64, int(lengths.sum()))
    if np.array_equal(np.diff(splits), lengths) and np.array_equal(ids, flat):
        return []
    rows = (ids[start:end].tolist() for start, end in itertools.pairwise(splits.tolist()))
    return [number for number, (row, wanted) in enumerate(zip(rows, expected, strict=True)) if row != list(wanted)]
