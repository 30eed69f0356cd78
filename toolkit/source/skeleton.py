"""A model without its weights, as text: what a saved folder holds besides them, to be filled again later."""

from __future__ import annotations

import base64
import copy
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from toolkit.errors import SourceError
from toolkit.source.checkpoint import Checkpoint, open_checkpoint
from toolkit.source.files import read_json
from toolkit.source.folder import ModuleFolder

if TYPE_CHECKING:
    from sentence_transformers.base.model import BaseModel

__all__ = ["filled", "skeleton"]

_WEIGHTS = (".safetensors", ".bin")


def skeleton(model: BaseModel) -> str:
    """All that ``model.save`` writes, but weights and the card: a zip in base64.

    The encoder is said to be one of float32, without adapters: so are the weights that it will be filled with.
    """
    bare = copy.copy(model)
    bare._modules = {name: _without_weights(module) for name, module in model._modules.items()}
    archive = io.BytesIO()
    with TemporaryDirectory() as name:
        bare.save(name, create_model_card=False)
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for file in sorted(Path(name).rglob("*")):
                if file.is_file() and file.suffix not in _WEIGHTS:
                    packed.writestr(
                        zipfile.ZipInfo(str(file.relative_to(name))), file.read_bytes(), zipfile.ZIP_DEFLATED
                    )
    return base64.b64encode(archive.getvalue()).decode()


def filled(packed: str, weights: Mapping[int, Mapping[str, npt.NDArray[np.float32]]]) -> Checkpoint:
    """The model that ``skeleton`` was made of, with other ``weights``: tensors by name, by the number of the module, of
    which Dropout is none.

    Raises ``SourceError`` where they do not fit, ``UnsupportedError`` as for any folder.
    """
    from safetensors.numpy import save_file

    with TemporaryDirectory() as name:
        folder = Path(name)
        with zipfile.ZipFile(io.BytesIO(base64.b64decode(packed))) as archive:
            archive.extractall(folder)
        items = read_json(folder / "modules.json")
        modules = [ModuleFolder(item["type"].rsplit(".", 1)[-1], folder / item["path"]) for item in items]
        for number, module in enumerate(module for module in modules if module.type != "Dropout"):
            if module.has_weights and not weights.get(number):
                raise SourceError(f"module {number}, {module.type}: no layer has its weights")
            if tensors := weights.get(number):
                contiguous = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
                save_file(contiguous, module.path / "model.safetensors", metadata={"format": "pt"})
        return open_checkpoint(folder)


class _Configuration:
    """An encoder that saves its configuration alone."""

    def __init__(self, encoder: Any) -> None:
        import torch

        self.config = copy.deepcopy(encoder.config)
        self.config.dtype, self.config.architectures = torch.float32, [type(encoder).__name__]

    def save_pretrained(self, folder: str, **options: Any) -> None:
        self.config.save_pretrained(folder)


def _without_weights(module: Any) -> Any:
    """A Transformer module that saves no weights; those of others are small, and they stay as they are."""
    if not hasattr(module, "auto_model"):
        return module
    bare = copy.copy(module)
    bare._modules = {**module._modules, "model": _Configuration(module.auto_model)}
    return bare
