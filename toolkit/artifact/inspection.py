"""What an artifact is: signatures, sizes, provenance, and which TF Serving releases can load it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toolkit.artifact.compatibility import (
    ServingReleases,
    model_ops,
    read_saved_model,
    saved_model_nodes,
    serving_releases,
)
from toolkit.artifact.savedmodel import WARMUP, read_provenance
from toolkit.artifact.tuning import read_batching
from toolkit.encoder.batching_options import Batching
from toolkit.errors import ArtifactError
from toolkit.signatures import GUARD_NODE, Signature, Tensor

__all__ = ["Inspection", "inspect"]


@dataclass(frozen=True)
class Inspection:
    """What ``inspect`` finds. Sizes are in bytes; ``provenance`` is ``None`` for models exported by other means,
    ``batching`` for those that do not batch by tokens inside the graph. ``guarded``: the graph refuses inputs of a
    wrong shape (see ``toolkit.graph.guard``); exports of older versions do not, and such a request can end a server.
    """

    path: Path
    signatures: tuple[Signature, ...]
    graph_bytes: int
    variables_bytes: int
    total_bytes: int
    ops: tuple[str, ...]
    releases: ServingReleases
    warmup: bool
    batching: Batching | None
    guarded: bool
    provenance: dict[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """The inspection as JSON values."""
        return {**asdict(self), "path": str(self.path)}


def inspect(saved_model: str | Path) -> Inspection:
    """Read a version directory without loading the model. Raises ``ArtifactError`` if it is none or damaged."""
    folder = Path(saved_model)
    model = read_saved_model(folder)
    ops = model_ops(model, folder)
    serving = [graph for graph in model.meta_graphs if "serve" in graph.meta_info_def.tags]
    if not serving:
        raise ArtifactError(f"{folder}: has no graph tagged 'serve'; TF Serving would not load it")

    from tensorflow.core.framework import types_pb2

    def tensors(infos: Any) -> tuple[Tensor, ...]:
        def dtype(info: Any) -> str:
            name = str(types_pb2.DataType.Name(info.dtype)).removeprefix("DT_").lower()
            return {"float": "float32", "double": "float64"}.get(name, name)

        def shape(info: Any) -> tuple[str, ...]:
            if info.tensor_shape.unknown_rank:
                return ("...",)
            return tuple("?" if dim.size < 0 else str(dim.size) for dim in info.tensor_shape.dim)

        return tuple(Tensor(name, dtype(info), shape(info)) for name, info in sorted(infos.items()))

    signatures = tuple(
        Signature(name, "", tensors(definition.inputs), tensors(definition.outputs))
        for name, definition in sorted(serving[0].signature_def.items())
        if not name.startswith("__")
    )
    files = [path for path in folder.rglob("*") if path.is_file()]
    return Inspection(
        path=folder,
        signatures=signatures,
        graph_bytes=(folder / "saved_model.pb").stat().st_size,
        variables_bytes=sum(path.stat().st_size for path in files if path.parent.name == "variables"),
        total_bytes=sum(path.stat().st_size for path in files),
        ops=tuple(sorted(ops)),
        releases=serving_releases(ops),
        warmup=(folder / WARMUP).is_file(),
        batching=read_batching(model),
        guarded=any(node.op == "Assert" and node.name.startswith(GUARD_NODE) for node in saved_model_nodes(model)),
        provenance=read_provenance(folder),
    )
