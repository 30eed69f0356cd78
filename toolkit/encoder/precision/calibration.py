"""What flows into an encoder's products on typical texts: the texts, and one float32 run that records it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from toolkit.corpus import check_texts
from toolkit.encoder.precision.float32 import Float32Products
from toolkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import tensorflow as tf

    from toolkit.encoder.packing import Tokens
    from toolkit.spec import EncoderSpec

__all__ = ["Calibration", "Inputs", "built_in_texts", "read_texts", "record"]

Array = npt.NDArray[np.float32]

BUILT_IN_TEXTS = 256
SAMPLED_TOKENS = 1024
"""Tokens of which whole rows are kept for each product; the largest values are taken over all."""


@dataclass(frozen=True)
class Calibration:
    """Texts to calibrate on. ``digest`` is the SHA-256 of the texts, joined by newlines, in hexadecimal."""

    source: str
    texts: tuple[str, ...]

    @property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.texts).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Inputs:
    """What one product was given: float32 ``sample`` ``[tokens, in]``, and the lowest (or 0) and the highest value (or
    0) of each channel over all tokens, ``low`` and ``high``, float32 ``[in]``."""

    sample: Array
    low: Array
    high: Array

    @property
    def largest(self) -> Array:
        """The largest absolute value of each channel, float32 ``[in]``."""
        return np.maximum(-self.low, self.high)


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


def built_in_texts(max_length: int) -> Calibration:
    """Windows of words, drawn at random with a fixed seed from the check's texts, from one word to 96 of them.

    They are not the texts of the check, so that its figures are not those of what was calibrated on.
    """
    draw = random.Random(0)
    texts = [text.split() for text in check_texts(max_length) if len(text) < 2000]
    words = [word for text in texts for word in dict.fromkeys(text)]
    found = []
    for number in range(BUILT_IN_TEXTS):
        count = round(96 ** (number / BUILT_IN_TEXTS))
        window: list[str] = []
        while len(window) < count:  # runs of words that belong together, and single ones that do not
            text = draw.choice(texts) if draw.random() < 0.8 else [draw.choice(words)]
            start = draw.randrange(len(text)) if text else 0
            window += text[start : start + count - len(window)]
        # some as one word (or character) over and over, whose hidden states are like no others
        found.append(" ".join(window) if number % 8 else draw.choice((" ", "")).join([window[0]] * (2 * count)))
    return Calibration("built-in", tuple(found))


class _Recorder(Float32Products):
    """Float32 products that keep what they are given."""

    def __init__(self, params: Mapping[str, tf.Tensor], spec: EncoderSpec) -> None:
        super().__init__(params, spec)
        self.total = 0
        self.rows: npt.NDArray[np.int64] = np.array([], np.int64)
        self.samples: dict[str, list[Array]] = {}
        self.range: dict[str, tuple[Array, Array]] = {}

    def linear(
        self, x: tf.Tensor, name: str, *, activation: bool = False, residual: tf.Tensor | None = None
    ) -> tf.Tensor:
        values = x.numpy()[: self.total]
        low, high = self.range.get(name, (np.float32(0), np.float32(0)))
        self.range[name] = (np.minimum(low, values.min(0, initial=0)), np.maximum(high, values.max(0, initial=0)))
        self.samples.setdefault(name, []).append(values[self.rows])
        return super().linear(x, name, activation=activation, residual=residual)


def record(
    params: Mapping[str, tf.Tensor],
    spec: EncoderSpec,
    tokens: Tokens,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Inputs]:
    """Run the encoder in float32 on packed tokens and return what each product was given, by the product's name."""
    from toolkit.encoder import bert
    from toolkit.encoder.packing import eager_chunks

    draw = np.random.default_rng(0)
    share = min(1.0, SAMPLED_TOKENS / max(1, int(tokens.ids.shape[0])))
    recorder = _Recorder(params, spec)
    chunks, _ = eager_chunks(tokens)
    for done, chunk in enumerate(chunks):
        recorder.total = int(chunk.total)
        recorder.rows = np.flatnonzero(draw.random(recorder.total) < share)
        bert.hidden_states(recorder, spec, chunk)
        progress(done + 1, len(chunks))
    return {
        name: Inputs(np.concatenate(samples), *recorder.range[name])
        for name, samples in recorder.samples.items()
    }
