"""Each tensor of a checkpoint is consumed once, with its shape; leftovers are fatal."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.encoder.weights import Weights
from toolkit.errors import SourceError


def test_tensors_are_handed_out_once_as_float32() -> None:
    weights = Weights({"a": np.ones([2, 3], np.float16), "pooler.x": np.ones(1)}, ignore=("pooler.",))
    assert weights.take("a", (2, 3)).dtype == np.float32
    with pytest.raises(SourceError, match="'a' was used twice"):
        weights.take("a", (2, 3))
    weights.finish()


def test_missing_misshapen_and_left_over_tensors_are_named() -> None:
    weights = Weights({"a": np.ones([2, 3]), "b": np.ones(1)})
    with pytest.raises(SourceError, match="'c' is missing"):
        weights.take("c", (1,))
    with pytest.raises(SourceError, match=r"a has shape \(2, 3\)"):
        weights.take("a", (3, 2))
    with pytest.raises(SourceError, match="1 tensors have no place in the model, first 'b'"):
        weights.finish()
