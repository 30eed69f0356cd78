"""What kind of checkpoint a folder holds, looked at before anything in it is loaded or imported.

Module types and activations come from JSON files, and sentence-transformers would replace some unknown ones by defaults
with no more than a log line: what is not known here is refused by file, field and value.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.errors import SourceError, UnsupportedError

__all__ = ["MODULE_TYPES", "ModuleFolder", "inspect_folder", "read_json"]

# Module classes of sentence-transformers that the spec knows. Their dotted paths changed between releases
# (sentence_transformers.models.X, sentence_transformers.base.modules.X.X, ...): the class name decides.
MODULE_TYPES = ("Transformer", "Pooling", "Dense", "Normalize", "LayerNorm", "Dropout")


@dataclass(frozen=True)
class ModuleFolder:
    """One module of a folder: the name of its class, and the folder of its configuration and weights."""

    type: str
    path: Path

    @property
    def has_weights(self) -> bool:
        """Whether a module of this type comes with weights."""
        return self.type in ("Transformer", "Dense", "LayerNorm")


def inspect_folder(folder: Path, trust_remote_code: bool) -> tuple[ModuleFolder, ...]:
    """The modules of ``folder``; refuses what sentence-transformers would load wrongly, late or with someone's code.

    Raises ``SourceError`` for what is missing or damaged, ``UnsupportedError`` naming file, field and value.
    """
    file = folder / "modules.json"
    items = read_json(file, missing="is missing; this is not a SentenceTransformer folder")
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        raise SourceError(f"{file}: expected a list of modules, like sentence-transformers writes")
    return tuple(_inspect_module(folder, file, item, trust_remote_code) for item in items)


def _inspect_module(folder: Path, file: Path, item: dict[str, Any], trust_remote_code: bool) -> ModuleFolder:
    kind = str(item.get("type", ""))
    name = kind.rsplit(".", 1)[-1]
    known = kind.startswith("sentence_transformers.") and name in MODULE_TYPES
    if not known and not trust_remote_code:
        raise UnsupportedError(str(file), "type", kind, MODULE_TYPES)
    module = ModuleFolder(name, folder / str(item.get("path", "")))
    if not module.path.resolve().is_relative_to(folder.resolve()):
        raise SourceError(f"{file}: path {item.get('path')!r} leads out of the folder")
    if not module.path.is_dir() and name in ("Transformer", "Pooling", "Dense", "LayerNorm"):
        raise SourceError(f"{module.path}: is missing, but modules.json names it")
    if name == "Dense":
        _require_torch_activation(module.path / "config.json", trust_remote_code)
    if name == "Transformer":
        read_json(module.path / "config.json")
    return module


def _require_torch_activation(file: Path, trust_remote_code: bool) -> None:
    activation = str(read_json(file).get("activation_function", "torch.nn.modules.activation.Tanh"))
    if not activation.startswith("torch.nn.modules.") and not trust_remote_code:
        raise UnsupportedError(str(file), "activation_function", activation, "classes of torch.nn.modules")


def read_json(path: Path, missing: str = "is missing") -> Any:
    """Parse a JSON file of a checkpoint; ``SourceError`` names the file where that fails."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SourceError(f"{path}: {missing}") from error
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be read: {error}") from error
