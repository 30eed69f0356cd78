"""A map from characters to strings, as the model buffer of tensorflow-text's ``FastBertNormalize`` kernel.

The kernel walks over code points and looks each one's UTF-8 bytes up in a double-array trie (the layout of
darts-clone) whose values point into a pool of replacement strings; a byte sequence without a value stays as it is.
The buffer is the flatbuffer ``FastBertNormalizerModel`` (tensorflow_text/core/kernels/fast_bert_normalizer_model.fbs).

Broken UTF-8 needs no step of its own: the kernel steps over it in exactly the pieces that
``bytes.decode("utf-8", "replace")`` turns into one U+FFFD each (a byte that cannot begin a character, or a character's
valid beginning), so these pieces are keys as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["UNCHANGED", "charmap_model"]

UNCHANGED = -1

_MAX_BYTES = 63  # of one replacement: the kernel keeps the length in six bits
_DIFFERENT = 1 << 30  # marks a value that is a replacement
_LEAF = 0x80000000  # marks a unit that holds a value
_HAS_LEAF = 0x100
_BLOCK = 64  # continuation bytes 0x80 to 0xBF

Nodes = npt.NDArray[np.int64]


def charmap_model(strings: Sequence[bytes], index: npt.NDArray[np.int32], invalid: int) -> bytes:
    """The model buffer.

    ``index[c]`` (int32, 1,114,112 entries) names code point ``c``'s replacement in ``strings``, or is ``UNCHANGED``.
    ``invalid`` names the one for broken UTF-8. Raises ``ValueError`` for a replacement of more than 63 bytes.
    """
    import flatbuffers  # type: ignore[import-untyped]

    pool, values = _pool(strings)
    units = _units(index.astype(np.int64) + 1, np.append(0, values), invalid + 1)
    zero = 0 if index[0] == UNCHANGED else int(values[index[0]])
    builder = flatbuffers.Builder(units.nbytes + len(pool) + 1024)
    trie_at = builder.CreateNumpyVector(units)
    pool_at = builder.CreateNumpyVector(np.frombuffer(pool, np.uint8))
    builder.StartObject(4)
    builder.PrependBoolSlot(0, True, False)  # lower_case_nfd_strip_accents: for information only
    builder.PrependUOffsetTRelativeSlot(1, trie_at, 0)
    builder.PrependInt32Slot(2, zero, 0)  # the trie cannot hold the key "\0"
    builder.PrependUOffsetTRelativeSlot(3, pool_at, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def _pool(strings: Sequence[bytes]) -> tuple[bytes, npt.NDArray[np.int64]]:
    """All strings end to end (a string inside the pool is not stored twice), and each string's encoded place."""
    pool = bytearray(b"\0")  # an empty vector is a null pointer
    values = np.empty(len(strings), np.int64)
    for number, string in enumerate(strings):
        if len(string) > _MAX_BYTES:
            raise ValueError(f"a replacement has {len(string)} bytes: {string!r}")
        values[number] = _DIFFERENT | (len(pool) << 6) | len(string) if string else _DIFFERENT
        pool.extend(string)
    return bytes(pool), values


def _units(characters: Nodes, values: Nodes, broken: int) -> npt.NDArray[np.uint32]:
    """The double array in which code point ``c`` has the value ``values[characters[c]]``; 0 means none.

    Nodes are numbered: 0 no node, then a leaf for each of ``values``, then inner nodes, each a row of 64 children.
    Equal subtrees are one node. Every inner node below the root is the valid beginning of some character, so all of
    them carry the value of the leaf ``broken``; where no character follows, that leaf itself takes the place.
    """
    rows: list[Nodes] = []
    first = len(values)

    def inner(table: Nodes) -> Nodes:
        """Numbers of the nodes whose children are the rows of ``table``."""
        nonlocal first
        # Sorting whole rows, as np.unique does, takes twenty times as long.
        different: dict[bytes, int] = {}
        inverse = [different.setdefault(row.tobytes(), len(different)) for row in table]
        unique = np.frombuffer(b"".join(different), table.dtype).reshape(-1, _BLOCK)
        numbers = np.arange(first, first + len(unique))
        numbers[~unique.any(axis=1)] = broken
        rows.append(unique)
        first += len(unique)
        return np.asarray(numbers[inverse])

    blocks = inner(characters.reshape(-1, _BLOCK))  # one node for each 64 code points
    three = blocks[: 0x10000 // _BLOCK].reshape(16, _BLOCK).copy()
    three[0x0, :0x20] = 0  # E0 80..9F would be overlong,
    three[0xD, 0x20:] = 0  # ED A0..BF are surrogates
    four = np.zeros(5 * _BLOCK, np.int64)
    four[0x10:0x110] = inner(blocks[0x10000 // _BLOCK :].reshape(-1, _BLOCK))  # F0 90 to F4 8F
    root = np.full(256, broken, np.int64)
    root[0x00:0x80] = characters[:0x80]
    root[0x00] = 0
    root[0xC2:0xE0] = blocks[2:32]
    root[0xE0:0xF0] = inner(three)
    root[0xF0:0xF5] = inner(four.reshape(5, _BLOCK))
    return _place(values, root, np.concatenate(rows), broken)


def _place(leaves: Nodes, root: Nodes, children: Nodes, broken: int) -> npt.NDArray[np.uint32]:
    """Lay the nodes out.

    A node's child for byte ``b`` stands at ``base ^ b`` and its own value at ``base ^ 0``. Bases are distinct, which
    is all that keeps nodes apart. The root has base 0. Each further 256 units hold two inner nodes, with bases 128 and
    192: their children are in units 0 to 63 and 64 to 127, their values at the bases. What remains serves as leaves,
    whose base is where their value is.
    """
    number = np.arange(len(children))
    inner_base = 256 * (1 + number // 2) + 128 + 64 * (number % 2)
    free = (inner_base[:, None] + np.arange(1, _BLOCK)).ravel()
    needed = len(leaves) - 1
    if needed > len(free):
        start = 256 * (2 + len(children) // 2)
        free = np.append(free, start + np.arange(needed - len(free)))
    leaf_base = free[:needed]
    base = np.concatenate([[0], leaf_base, inner_base])  # node 0 is no node
    size = (int(base.max()) // 256 + 1) * 256
    units = np.zeros(size, np.uint32)

    def write(at: Nodes, label: Nodes, node: Nodes) -> None:
        offset = at ^ base[node]
        units[at] = np.where(node == 0, 0, label | _HAS_LEAF | (offset << 10))

    if size >= 1 << 21:
        raise ValueError(f"the trie has {size} units")
    labels = np.arange(256)
    write(labels[1:], labels[1:], root[1:])
    labels = np.broadcast_to(0x80 + np.arange(_BLOCK), children.shape)
    write((inner_base[:, None] ^ labels).ravel(), labels.ravel(), children.ravel())
    units[inner_base] = _LEAF | leaves[broken]
    units[leaf_base] = _LEAF | leaves[1:]
    return units
