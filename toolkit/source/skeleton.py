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
from toolkit.source.folder import inspect_folder
from toolkit.source.loaded import modules_of
from toolkit.source.router import ROUTER

if TYPE_CHECKING:
    from sentence_transformers.base.model import BaseModel

__all__ = ["filled", "places", "skeleton"]

_WEIGHTS = (".safetensors", ".bin")
_NONE = "Dropout"
"""A module that has no number."""


def places(model: BaseModel) -> dict[int, int]:
    """The number of each module by its ``id``: in their order, those of routes too, each once, without Dropout."""
    modules = [module for module in modules_of(model) if type(module).__name__ != _NONE]
    return {id(module): number for number, module in enumerate(modules)}


def skeleton(model: BaseModel) -> str:
    """All that ``model.save`` writes, but weights and the card: a zip in base64.

    Encoders are said to be of float32, without adapters: so are the weights that they will be filled with.
    """
    bare = copy.copy(model)
    without: dict[int, Any] = {}  # a module that several routes have stays one
    bare._modules = {name: _without_weights(module, without) for name, module in model._modules.items()}
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
    """The model that ``skeleton`` was made of, with other ``weights``: tensors by name, by the number of the module, as
    ``places`` has it.

    Raises ``SourceError`` where they do not fit, ``UnsupportedError`` as for any folder.
    """
    from safetensors.numpy import save_file

    with TemporaryDirectory() as name:
        folder = Path(name)
        with zipfile.ZipFile(io.BytesIO(base64.b64decode(packed))) as archive:
            archive.extractall(folder)
        modules = inspect_folder(folder, False).modules
        for number, module in enumerate(module for module in modules if module.type != _NONE):
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


def _without_weights(module: Any, without: dict[int, Any]) -> Any:
    """A module that saves no weights of a Transformer; those of others are small, and they stay as they are.
    ``without`` has those that were made already, by the ``id`` of the module."""
    if id(module) in without:
        return without[id(module)]
    if type(module).__name__ == ROUTER:
        routes = {
            route: [_without_weights(part, without) for part in parts] for route, parts in module.sub_modules.items()
        }
        changed: dict[str, Any] = {"sub_modules": routes}
    elif hasattr(module, "auto_model"):
        changed = {"model": _Configuration(module.auto_model)}
    else:
        return without.setdefault(id(module), module)
    bare = copy.copy(module)
    bare._modules = {**module._modules, **changed}
    return without.setdefault(id(module), bare)
