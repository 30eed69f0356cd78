"""The model buffers of tensorflow-text's ``FastSentencepieceTokenize`` kernel, and scores that make it exact.

The kernel finds the best path through the lattice of pieces, adding in single precision; the ``tokenizers`` package
adds in double precision, nearly exactly so as the scores are in single precision. Here scores are whole multiples of
``2**-BITS``, of which single precision holds sums up to 2**24 exactly. That rounds them, but several rounded versions
of them together tell the truth: the exact scores ``s`` are a mean, with positive weights, of all the versions, so a
path that is best in each of them is best for ``s``. Among equals, both sides take the path whose last piece is longest,
and so on before. For the few words where versions disagree there is the exact search,
:mod:`toolkit.tokenizer.unigram.exact`.

Reading JSON makes scores that are not quite of single precision, so that which one of several equally good paths is the
best one for the ``tokenizers`` package depends on the last bits. Hence words whose best path has such a piece are
searched as well, and the versions after the first make such pieces better by one unit: then a path without any that is
best in all versions is better than every path with one. Sums without such pieces are exact in double precision.

To keep sums small, each character's usual share is taken from every piece's score, which changes no comparison.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["BITS", "SUM_LIMIT", "Lattice", "build_lattice", "kernel_models"]

BITS = 14
SUM_LIMIT = 3 << 22  # in units of 2**-BITS, a good deal less than 2**24
_SIZE_LIMIT = 1 << 28

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Lattice:
    """``versions`` of the rounded scores (int64 [pieces], in units of 2**-BITS), of which the first and second prove a
    path, and the first and all after the second do so more often; ``room``: how far sums inside a piece
    may lie from those at its ends; ``longest_path`` and ``longest_word``: of how many pieces and bytes a path may be.
    """

    versions: tuple[Ints, ...] = field(repr=False)
    room: Ints = field(repr=False)
    longest_path: int
    longest_word: int


def build_lattice(pieces: Sequence[str], scores: npt.NDArray[np.float64], inexact: npt.NDArray[np.bool_]) -> Lattice:
    """``inexact``: the scores that the ``tokenizers`` package adds are slightly different ones. Raises ``ValueError``
    for scores that are not multiples of a common small number."""
    precision = next((m for m in range(BITS, 61) if np.array_equal(scores * 2.0**m, np.rint(scores * 2.0**m))), 61)
    if precision > 52:
        raise ValueError("scores are not multiples of 2**-52")
    exact = np.rint(scores * 2.0**precision).astype(np.int64)
    extra = precision - BITS
    second = extra // 2  # bits of the second remainder
    rounded = _divided(exact, extra)
    rest = exact - (rounded << extra)
    first_rest = _divided(rest, second)
    second_rest = rest - (first_rest << second)
    owner, points = _characters(pieces)
    shares = _shares(pieces, scores, owner, points)
    lift = np.bincount(owner, shares[points], len(pieces)).astype(np.int64)
    singles = np.zeros(shares.shape, np.int64)
    single = np.array([number for number, piece in enumerate(pieces) if len(piece) == 1], np.int64)
    at = np.array([ord(pieces[number]) for number in single.tolist()], np.int64)
    singles[at] = rounded[single] + lift[single]
    steps = np.abs(singles)[points]
    room = np.bincount(owner, steps, len(pieces)).astype(np.int64) + np.abs(rounded + lift)
    base = rounded + lift
    versions = [base, base + rest + inexact]
    versions += [base + first_rest, base + second_rest + inexact] if extra else [base + inexact]
    amplitude = max(int(np.abs(version - base).max()) for version in versions)
    # A path of n characters has at most n pieces and sums of at most n scores: the sum of all roundings of what the
    # package adds, two last bits in a score and half a last bit in a sum, is less than half a unit of the exact scores.
    rounding = 3 * float(np.abs(scores).max()) * 2.0**-52
    longest_word = math.isqrt(int(2.0**-precision / 2 / max(rounding, 2.0**-70)))
    return Lattice(tuple(versions), room, (1 << 21) // max(amplitude, 1), min(longest_word, 1 << 20))


def _divided(values: Ints, bits: int) -> Ints:
    """``values`` divided by 2**bits, rounded to the nearest."""
    return (values + (1 << bits >> 1)) >> bits


def _characters(pieces: Sequence[str]) -> tuple[Ints, Ints]:
    """All characters of all pieces: the piece's number and the code point."""
    lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
    points = np.frombuffer("".join(pieces).encode("utf-32-le", "surrogatepass"), "<u4").astype(np.int64)
    return np.repeat(np.arange(len(pieces)), lengths), points


def _shares(pieces: Sequence[str], scores: npt.NDArray[np.float64], owner: Ints, points: Ints) -> Ints:
    """What a character usually costs, in units: the mean of its pieces' cost a character, by how likely they are."""
    lengths = np.maximum(np.bincount(owner, minlength=len(pieces)), 1)
    weight = np.exp(scores - scores.max())
    cost = weight * -scores / lengths
    total = np.bincount(points, weight[owner], 0x110000)
    mean = np.bincount(points, cost[owner], 0x110000) / np.where(total > 0, total, 1)
    return np.rint(mean * 2.0**BITS).astype(np.int64)


def kernel_models(
    pieces: Sequence[str], versions: Sequence[Ints], prefixes: Mapping[str, str], *, dummy_prefix: bool
) -> tuple[tuple[bytes, ...], npt.NDArray[np.uint32]]:
    """The kernel's model for each version of the scores, and the trie of the pieces, whose values are their numbers.

    ``prefixes`` are strings that the kernel replaces before, the longest one at each place.
    """
    trie = _trie(pieces)
    replacements = bytearray()
    starts = []
    for text in prefixes.values():
        starts.append(len(replacements))
        replacements += text.encode() + b"\0"
    prefix_trie = _trie(list(prefixes)) if prefixes else np.zeros(0, np.uint32)
    leaves = prefix_trie >= 1 << 31
    prefix_trie[leaves] = np.uint32(1 << 31) | np.array(starts, np.uint32)[prefix_trie[leaves] & 0x7FFFFFFF]
    models = [
        _model(trie, (version / 2.0**BITS).astype(np.float32), prefix_trie, bytes(replacements), dummy_prefix)
        for version in versions
    ]
    return tuple(models), trie


def _trie(keys: Sequence[str]) -> npt.NDArray[np.uint32]:
    """The double array (darts-clone) of ``keys``, none with a NUL character, whose values are their numbers."""
    from tensorflow_text.core.pybinds import pywrap_model_converter

    proto = b"".join(_field(1, _field(1, key.encode()) + b"\x15\0\0\0\0\x18\x01") for key in keys)
    normalizer = _field(2, bytes(4)) + b"\x18\0\x20\0\x28\0"
    converted = bytes(pywrap_model_converter.convert_sentencepiece_model(proto + _field(3, normalizer)))
    return _vector(converted, _table(converted, _table(converted, 0, None), 6), 0)


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    size, length = bytearray(), len(data)
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([number << 3 | 2, *size, length]) + data


def _table(buffer: bytes, table: int, slot: int | None) -> int:
    """The place of a table's member table in a flatbuffer (of the root table, if ``slot`` is None)."""
    at = table
    if slot is not None:
        vtable = table - int.from_bytes(buffer[table : table + 4], "little", signed=True)
        at = table + int.from_bytes(buffer[vtable + 4 + 2 * slot : vtable + 6 + 2 * slot], "little")
    return at + int.from_bytes(buffer[at : at + 4], "little")


def _vector(buffer: bytes, table: int, slot: int) -> npt.NDArray[np.uint32]:
    at = _table(buffer, table, slot)
    return np.frombuffer(buffer, "<u4", int.from_bytes(buffer[at : at + 4], "little"), at + 4).astype(np.uint32)


def _model(
    trie: npt.NDArray[np.uint32],
    scores: npt.NDArray[np.float32],
    prefixes: npt.NDArray[np.uint32],
    replacements: bytes,
    dummy_prefix: bool,
) -> bytes:
    """The flatbuffer ``EncoderConfig`` (tensorflow_text/core/kernels/sentencepiece/encoder_config.fbs)."""
    import flatbuffers  # type: ignore[import-untyped]

    builder = flatbuffers.Builder(trie.nbytes + scores.nbytes + prefixes.nbytes + len(replacements) + 1024)

    def table(nodes: npt.NDArray[np.uint32]) -> int:
        vector = builder.CreateNumpyVector(nodes)
        builder.StartObject(1)
        builder.PrependUOffsetTRelativeSlot(0, vector, 0)
        return int(builder.EndObject())

    pieces_at, scores_at = table(trie), builder.CreateNumpyVector(scores)
    if replacements:
        prefixes_at = table(prefixes)
        replacements_at = builder.CreateNumpyVector(np.frombuffer(replacements, np.int8))
    builder.StartObject(13)
    builder.PrependInt32Slot(3, -1, 0)  # unknown_code: unknown characters are pieces
    builder.PrependUOffsetTRelativeSlot(6, pieces_at, 0)
    builder.PrependUOffsetTRelativeSlot(7, scores_at, 0)
    builder.PrependBoolSlot(9, dummy_prefix, None)
    if replacements:
        builder.PrependUOffsetTRelativeSlot(11, prefixes_at, 0)
        builder.PrependUOffsetTRelativeSlot(12, replacements_at, 0)
    builder.PrependBoolSlot(8, False, None)
    builder.PrependBoolSlot(10, False, None)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())
