"""A BPE model of SentencePiece as bytes (``sentencepiece_model.proto``), written without the sentencepiece package."""

from __future__ import annotations

import struct
from collections.abc import Iterable

__all__ = ["bpe_model"]

_BPE = 2  # TrainerSpec.ModelType
_NORMAL, _UNKNOWN, _BYTE = 1, 2, 6  # ModelProto.SentencePiece.Type


def bpe_model(pieces: Iterable[tuple[bytes, float]], *, byte_fallback: bool = False) -> bytes:
    """The model with these ``(piece, score)``; the text is taken as it is.

    After the pieces come, with ``byte_fallback``, those of the 256 bytes, which characters that are no piece fall apart
    into, and at last the one that stands for such a character otherwise.
    """
    parts = [_piece(piece, score, _NORMAL) for piece, score in pieces]
    if byte_fallback:
        parts += [_piece(b"<0x%02X>" % byte, 0.0, _BYTE) for byte in range(256)]
    unknown = len(parts)
    parts.append(_piece(b"\xf4\x8f\xbf\xbf", 0.0, _UNKNOWN))
    trainer = _number(3, _BPE) + _number(40, unknown) + b"".join(_number(field, -1) for field in (41, 42, 43))
    trainer += _number(35, int(byte_fallback))
    # add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces: none
    normalizer = _bytes(1, b"identity") + b"".join(_number(field, 0) for field in (3, 4, 5))
    return b"".join(parts) + _bytes(2, trainer) + _bytes(3, normalizer)


def _piece(piece: bytes, score: float, kind: int) -> bytes:
    return _bytes(1, _bytes(1, piece) + _varint(2 << 3 | 5) + struct.pack("<f", score) + _number(3, kind))


def _bytes(field: int, payload: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(payload)) + payload


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value & 0xFFFFFFFFFFFFFFFF)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
