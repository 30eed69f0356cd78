"""The modules that may follow Pooling: one file each, one line of this table each."""

from __future__ import annotations

from collections.abc import Mapping

from toolkit.heads.dense import DenseSpec
from toolkit.heads.head import HeadSpec
from toolkit.heads.layer_norm import LayerNormSpec
from toolkit.heads.normalize import NormalizeSpec

__all__ = ["HEADS"]

HEADS: Mapping[str, type[HeadSpec]] = {head.module_type: head for head in (DenseSpec, LayerNormSpec, NormalizeSpec)}
"""The class name of a module in sentence-transformers to its spec."""
