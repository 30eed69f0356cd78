"""What the weight files of a checkpoint hold: which files the loaders read for each module, and whether they are whole.

Only those files count. A folder may hold others (another module's, another framework's, an older copy), which nobody
loads; what only they hold is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import MissingExtraError, SourceError, UnsupportedError
from toolkit.source.files import read_json
from toolkit.source.folder import ModuleFolder, require_unquantized

if TYPE_CHECKING:
    import torch

__all__ = ["StoredModule", "find_stored", "read_tensors", "require_model_type"]

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
# In the order in which the loaders look for them; the modules behind the encoder are never split into shards.
_MODULE_FILES = ("model.safetensors", "pytorch_model.bin")
_ENCODER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_EXPERTS = "a mixture of experts: each token goes through layers of its own choice"
_REFUSED: Mapping[str, str] = {
    "convbert": "its layers convolve over neighbouring tokens, by kernels made of the text",
    "embedding_gemma2": "images and sound go through it too, and its text layers are those of embedding_gemma2_text",
    "embedding_gemma2_text": "unlike Gemma 3: heads of two sizes, normalized values, an input of its own to each layer",
    "luke": "attention between words and entities, which are marked beside the text",
    "mluke": "attention between words and entities, which are marked beside the text",
    "mixtral": _EXPERTS,
    "qwen2_moe": _EXPERTS,
    "qwen3_moe": _EXPERTS,
}
"""Why encoders that are asked for are no family's."""
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class StoredModule:
    """The files that the weights of one module are loaded from, in the order of loading.

    ``folder`` is the module's. For a PEFT adapter ``base`` is the folder of the model that it was trained on, whose
    files come first.
    """

    folder: Path
    files: tuple[Path, ...]
    base: Path | None = None

    @property
    def config(self) -> Path:
        """The configuration that the tensors' names and shapes follow from."""
        return (self.base or self.folder) / "config.json"


def require_model_type(config: Mapping[str, Any], file: Path, supported: Collection[str]) -> None:
    """Refuse by name, before weights are looked at, what no family takes. ``config`` is ``file``'s content."""
    if config.get("model_type") not in supported:
        wanted = config.get("model_type")
        because = _REFUSED.get(wanted) if isinstance(wanted, str) else None
        raise UnsupportedError(str(file), "model_type", wanted, supported, because=because)


def find_stored(
    modules: Sequence[ModuleFolder], resolve: Callable[[str], Path], model_types: Collection[str] | None
) -> dict[int, StoredModule]:
    """The stored weights of a folder's modules, by the module's number; those without weights are left out.

    ``resolve`` leads from the name of an adapter's base model to its folder. ``model_types`` are the encoders that are
    taken (``None``: any). Every file is proven to be there and whole.
    """
    stored: dict[int, StoredModule] = {}
    for index, module in enumerate(modules):
        if module.type == "Transformer":
            stored[index] = _find_encoder(module.path, resolve, model_types)
        elif module.has_weights:
            stored[index] = StoredModule(module.path, _find_files(module.path, _MODULE_FILES))
    for found in stored.values():
        for file in found.files:
            for _ in read_tensors(file, names_only=True):
                pass
    return stored


def _find_encoder(folder: Path, resolve: Callable[[str], Path], model_types: Collection[str] | None) -> StoredModule:
    base = _adapter_base(folder, resolve) if (folder / ADAPTER_CONFIG).exists() else None
    file = (base or folder) / "config.json"
    config = read_json(file)
    if not isinstance(config, dict):
        raise SourceError(f"{file}: expected an object, like transformers writes")
    if model_types is not None:
        require_model_type(config, file, model_types)
    require_unquantized(config, file)
    explicit = config.get("transformers_weights")
    files = _find_files(base or folder, (str(explicit),) if explicit else _ENCODER_FILES)
    if base is None:
        return StoredModule(folder, files)
    return StoredModule(folder, files + _find_files(folder, ADAPTER_FILES), base)


def _adapter_base(folder: Path, resolve: Callable[[str], Path]) -> Path:
    """The folder of the model that the PEFT adapter in ``folder`` was trained on."""
    file = folder / ADAPTER_CONFIG
    name = read_json(file).get("base_model_name_or_path")
    merge = "merge it into its base first (merge_and_unload of the peft package) and export what that saves"
    if not isinstance(name, str) or not name:
        raise SourceError(f"{file}: a PEFT adapter whose base_model_name_or_path is {name!r}; {merge}")
    if (folder / "config.json").exists():
        raise SourceError(f"{file}: a PEFT adapter beside a whole model, of which base is {name!r}; {merge}")
    try:
        import peft  # noqa: F401
    except ModuleNotFoundError as error:
        raise SourceError(
            f"{file}: the folder holds a PEFT adapter of {name!r}, without its weights; install the peft package "
            f"(pip install peft) to load both, or {merge}"
        ) from error
    try:
        return resolve(name)
    except SourceError as error:
        raise SourceError(f"{file}: the adapter's base is not at hand ({error}); get it, or {merge}") from error


def _find_files(folder: Path, names: tuple[str, ...]) -> tuple[Path, ...]:
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise SourceError(
            f"{folder}: no weights; expected {names[0]}" + (f" (or {', '.join(names[1:])})" * (len(names) > 1))
        )
    if found.suffix != ".json":
        return (found,)
    placed = read_json(found).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise SourceError(f"{found}: has no weight_map, which says where each tensor lies")
    shards = tuple(folder / str(name) for name in sorted(set(placed.values())))
    held: dict[str, set[str]] = {}
    for shard in shards:
        if not shard.is_file():
            raise SourceError(f"{shard}: is missing, but {found.name} names it")
        held[shard.name] = {name for name, _ in read_tensors(shard, names_only=True)}
    for tensor, name in placed.items():
        if tensor not in held[name]:
            raise SourceError(f"{folder / name}: has no tensor {tensor!r}, but {found.name} says so")
    return shards


def read_tensors(file: Path, *, names_only: bool = False) -> Iterator[tuple[str, torch.Tensor | None]]:
    """Names and tensors in a safetensors file or a pickle of tensors, one at a time where the format allows it.

    Raises ``SourceError`` if the file is truncated, damaged, or a pickle of anything but tensors.
    """
    try:
        import torch
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "safetensors", "convert") from error
    with open(file, "rb") as start:
        head = start.read(len(_LFS_POINTER))
    if head == _LFS_POINTER:
        raise SourceError(f"{file}: is a pointer of Git LFS, not the file itself; run: git lfs pull")
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt") as handle:
                for name in handle.keys():  # noqa: SIM118
                    yield name, None if names_only else handle.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise SourceError(f"{file}: cannot be read, truncated or damaged: {error}") from error
        return
    try:
        # Mapped, not read, where it is torch's format since 1.6; both loaders restrict a pickle to tensors too.
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=head.startswith(b"PK"))
    except Exception as error:  # pickle, zip and torch raise many kinds
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise SourceError(f"{file}: cannot be read as tensors only, truncated or damaged: {reason}") from error
    if not isinstance(content, Mapping):
        raise SourceError(f"{file}: holds a {type(content).__name__}; expected tensors by name")
    yield from ((str(name), tensor) for name, tensor in content.items() if isinstance(tensor, torch.Tensor))
