"""The precompiled character map of a SentencePiece model, read back into rules, as far as ``tokenizers`` uses them.

The package looks a string up by the shortest key that the string begins with, and looks up nothing longer than
``LIMIT`` bytes but single characters; so keys that are longer, or that begin with a shorter key, mean nothing.
"""

from __future__ import annotations

import struct

import numpy as np

__all__ = ["LIMIT", "read_charsmap"]

LIMIT = 5

_LEAF = 0x80000000


def read_charsmap(charsmap: bytes) -> dict[str, str]:
    """The replacement of each key, of one or more characters.

    ``charsmap`` is the trie's size in bytes (little endian), the trie as a double array (darts-clone), and the
    replacements, each ended by a NUL byte. Raises ``ValueError`` for anything else.
    """
    try:
        (size,) = struct.unpack_from("<I", charsmap)
        units = np.frombuffer(charsmap, "<u4", size // 4, 4)
        pool = charsmap[4 + size :]
        return {key.decode(): _replacement(pool, start) for key, start in _keys(units)}
    except (struct.error, ValueError, IndexError) as error:
        raise ValueError(f"not a precompiled character map: {error}") from error


def _keys(units: np.ndarray[tuple[int], np.dtype[np.uint32]]) -> list[tuple[bytes, int]]:
    keys: list[tuple[bytes, int]] = []
    labels = np.arange(1, 256)
    level = [(b"", _offset(int(units[0])))] if len(units) else []
    for _ in range(LIMIT):
        below: list[tuple[bytes, int]] = []
        for key, base in level:
            at = base ^ labels
            at[at >= len(units)] = 0
            found = np.flatnonzero(units[at] & (_LEAF | 0xFF) == labels)
            for label, place in zip(labels[found].tolist(), at[found].tolist(), strict=True):
                unit = int(units[place])
                longer, children = key + bytes([label]), place ^ _offset(unit)
                if unit & 0x100:
                    keys.append((longer, int(units[children]) & ~_LEAF))
                else:
                    below.append((longer, children))
        level = below
    return keys


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & 0x200) >> 6)


def _replacement(pool: bytes, start: int) -> str:
    end = pool.find(b"\0", start)
    return pool[start : end if end >= 0 else None].decode()
