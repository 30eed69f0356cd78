"""The proofs of the tasks: one file each, one line of this table each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.proof.proof import TaskProof
from toolkit.proof.tasks.embed import EmbedProof
from toolkit.proof.tasks.multi_vector import MultiVectorProof
from toolkit.proof.tasks.rerank import RerankProof
from toolkit.proof.tasks.sparse import SparseProof
from toolkit.source.checkpoint import Checkpoint

__all__ = ["PROOFS"]

Provenance = Mapping[str, Any] | None

PROOFS: Mapping[str, Callable[[Checkpoint, Path, Provenance, Sequence[str] | None], TaskProof]] = {
    "embed": EmbedProof,
    "rerank": RerankProof,
    "multi_vector": MultiVectorProof,
    "sparse": SparseProof,
}
"""The name of a task to the proof of the artifact in a folder, which says of itself what its provenance does, against
a checkpoint; with texts in the place of the built-in corpus."""
