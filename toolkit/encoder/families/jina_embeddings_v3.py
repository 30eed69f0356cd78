"""Jina Embeddings v3 (Sturua et al. 2024, arXiv:2409.10173), as transformers' ``JinaEmbeddingsV3Model`` computes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from toolkit.encoder.families.nomic_bert import RotaryBertSpec

__all__ = ["JinaEmbeddingsV3Spec"]


@dataclass(frozen=True, kw_only=True)
class JinaEmbeddingsV3Spec(RotaryBertSpec):
    """Feed-forward layers without a gate; every product has a bias. The adapters for tasks are no part of
    transformers' class: see :mod:`toolkit.encoder.adapters`."""

    model_types: ClassVar[tuple[str, ...]] = ("jina_embeddings_v3",)
    title: ClassVar[str] = "Jina Embeddings v3"
    biased: ClassVar[tuple[str, ...]] = ("qkv", "attention_output", "intermediate", "output")
    inward: ClassVar[tuple[str, ...]] = ("mlp.fc1",)
    outward: ClassVar[str] = "mlp.fc2"
