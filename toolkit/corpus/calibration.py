"""Texts to calibrate int8 products on: a file of the user's, or a built-in set."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.corpus.check import check_texts
from toolkit.errors import InputError

__all__ = ["Calibration", "built_in_texts", "read_texts"]

BUILT_IN_TEXTS = 256
LONGEST = 96
"""Words of the longest built-in text."""


@dataclass(frozen=True)
class Calibration:
    """Texts to calibrate on. ``digest`` is the SHA-256 of the texts, joined by newlines, in hexadecimal."""

    source: str
    texts: tuple[str, ...]

    @property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.texts).encode("utf-8", "surrogatepass")).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """What a provenance says of them."""
        return {"source": self.source, "texts": len(self.texts), "sha256": self.digest}


def read_texts(path: str | Path) -> Calibration:
    """The non-blank lines of a UTF-8 file. Raises ``InputError`` naming the file if it cannot be read or has none."""
    try:
        content = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"calibration file {path}: is not UTF-8: byte {error.start} is {error.reason}") from error
    except OSError as error:
        raise InputError(f"calibration file {path}: cannot be read: {error.strerror or error}") from error
    texts = tuple(line for line in content.removeprefix("\ufeff").splitlines() if line.strip())
    if not texts:
        raise InputError(f"calibration file {path}: holds no text; expected one text a line")
    return Calibration(str(path), texts)


def built_in_texts(max_length: int | None) -> Calibration:
    """Windows of words, drawn at random with a fixed seed from the check's texts, from one word to ``LONGEST``.

    They are not the texts of the check, so that its figures are not those of what was calibrated on.
    """
    draw = random.Random(0)
    texts = [text.split() for text in check_texts(max_length) if len(text) < 2000]
    words = [word for text in texts for word in dict.fromkeys(text)]
    found = []
    for number in range(BUILT_IN_TEXTS):
        count = round(LONGEST ** (number / BUILT_IN_TEXTS))
        window: list[str] = []
        while len(window) < count:  # runs of words that belong together, and single ones that do not
            text = draw.choice(texts) if draw.random() < 0.8 else [draw.choice(words)]
            start = draw.randrange(len(text)) if text else 0
            window += text[start : start + count - len(window)]
        # some as one word (or character) over and over, whose hidden states are like no others
        found.append(" ".join(window) if number % 8 else draw.choice((" ", "")).join([window[0]] * (2 * count)))
    return Calibration("built-in", tuple(found))
