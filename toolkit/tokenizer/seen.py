"""Words that were seen before, with their token ids: a hash table that all calls of a graph share.

It is a resource of the process (in a server, of the model's session) that is there from the first call on and starts
empty: there is nothing to restore or to initialize. Its name says all that the token ids depend on, so the signatures
of an artifact use the same one, and two tokenizers do only if they are equal.

What is found is what the search for the word has found before, so it makes no difference when a call finds a word and
when another one clears the table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from toolkit.tokenizer.steps import Buffer

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["Found", "SeenWords", "digest"]

Search = Callable[["tf.Tensor"], tuple["tf.Tensor", "tf.Tensor"]]
"""Token ids of words (int32, packed) and their row splits (int32)."""


class Found(NamedTuple):
    """The tokens of words: those of word ``n`` are ``token_ids[starts[n]:ends[n]]``, int32 each."""

    token_ids: tf.Tensor
    starts: tf.Tensor
    ends: tf.Tensor


@dataclass(frozen=True)
class SeenWords:
    """At most ``words`` words, of at most ``tokens`` tokens and ``size`` bytes each; when there are more, all of them
    are forgotten. With the default limits they take 15 MB, or 30 MB if all are as long as they may be.

    Calls at the same time may each add their words before one of them notices that there are too many.
    """

    words: int = 65_536
    tokens: int = 31
    size: int = 256

    def table(self, name: str) -> tf.Tensor:
        """The table of this name. Each word has a row: how many tokens it has, the tokens, and whatever fills it.

        Each function and branch has to ask for it by its name. As an argument it fails the checks of TensorFlow's
        newer graph optimizers, which then say so in the log of whoever loads the graph.
        """
        import tensorflow as tf

        return tf.raw_ops.MutableHashTableOfTensorsV2(
            key_dtype=tf.string,
            value_dtype=tf.int32,
            value_shape=[1 + self.tokens],
            shared_name=f"words_{name}_{self.words}_{self.tokens}_{self.size}",
        )

    def look_up(self, name: str, words: tf.Tensor, search: Search) -> Found:
        """The tokens of ``words``, all different; ``search`` is called for those that are not in the table ``name``."""
        import tensorflow as tf

        width = 1 + self.tokens
        nothing = tf.fill([width], -1)
        rows = tf.raw_ops.LookupTableFindV2(table_handle=self.table(name), keys=words, default_value=nothing)
        count = rows[:, 0]
        known = tf.reshape(rows, [-1])
        starts = tf.range(tf.size(words)) * width + 1
        missing = tf.where(count < 0)

        def searched() -> Found:
            some = tf.gather_nd(words, missing)
            token_ids, splits = search(some)
            self._insert(name, some, token_ids, splits)
            splits += tf.size(known)
            return Found(
                tf.concat([known, token_ids], axis=0),
                tf.tensor_scatter_nd_update(starts, missing, splits[:-1]),
                tf.tensor_scatter_nd_update(starts + count, missing, splits[1:]),
            )

        if not tf.executing_eagerly():
            # As one op: TensorFlow goes through all ops of a branch that is not taken, and there are hundreds.
            searched = tf.function(searched, experimental_attributes={"_noinline": True})
        return Found(*tf.cond(tf.size(missing) > 0, searched, lambda: Found(known, starts, starts + count)))

    def _insert(self, name: str, words: tf.Tensor, token_ids: tf.Tensor, splits: tf.Tensor) -> None:
        import tensorflow as tf

        count = splits[1:] - splits[:-1]
        short = tf.where((count <= self.tokens) & (tf.strings.length(words) <= self.size))[: self.words]
        count = tf.gather_nd(count, short)[:, None]
        places = tf.gather_nd(splits[:-1], short)[:, None] + tf.range(self.tokens)
        rows = tf.concat([count, tf.gather(tf.pad(token_ids, [[0, self.tokens]]), places)], axis=1)
        size = tf.raw_ops.LookupTableSizeV2(table_handle=self.table(name))
        new = {"keys": tf.gather_nd(words, short), "values": rows}

        tf.cond(
            size + tf.size(short, tf.int64) > self.words,
            # To import is to put in place of everything that was there.
            lambda: tf.raw_ops.LookupTableImportV2(table_handle=self.table(name), **new),
            lambda: tf.raw_ops.LookupTableInsertV2(table_handle=self.table(name), **new),
        )

    def forget(self, name: str) -> tf.Operation | None:
        """Empty the table of this name, in a graph by the operation returned. It makes a difference to measurements
        only."""
        import tensorflow as tf

        nothing = {"keys": tf.zeros([0], tf.string), "values": tf.zeros([0, 1 + self.tokens], tf.int32)}
        return tf.raw_ops.LookupTableImportV2(table_handle=self.table(name), **nothing)

    def __str__(self) -> str:
        return f"up to {self.words:,} words are kept"


def digest(buffers: Iterable[Buffer], *others: object) -> str:
    """A name for these arrays and other values, the same for equal ones only."""
    sha = hashlib.sha256(repr(others).encode())
    for buffer in buffers:
        sha.update(f"{buffer.dtype.str}{buffer.shape}".encode())
        sha.update(buffer.tobytes())
    return sha.hexdigest()
