"""The proof that a loaded model holds what its checkpoint stores, and nothing that the loaders made up.

transformers fills a tensor that no file holds: weights with random numbers, biases with zeros. Original and export
would then share numbers that the next load does not have. So every tensor is traced back to a file, in three ways that
do not depend on each other: the loader's own report of what it missed or could not place, the values, bit for bit and
under whatever name they are stored, and a second load, which finds random numbers by their being others.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import SourceError
from toolkit.source.files import read_json
from toolkit.source.loaded import modules_of
from toolkit.source.static import require_stored_table
from toolkit.source.stored import StoredModule, read_tensors

if TYPE_CHECKING:
    import torch
    from sentence_transformers.base.model import BaseModel

    Tensors = Mapping[str, torch.Tensor]

__all__ = [
    "base_state",
    "explain_mismatch",
    "require_finite",
    "require_stored",
    "require_stored_adapter",
    "unused_state",
    "used_state",
]

_UNUSED = ("pooler.",)
"""Prefixes of an encoder's tensors that take no part in its hidden states: nothing behind a class without a head uses
BERT's pooler, and many checkpoints do not store one."""

_HEAD = 32
"""Values of a tensor by which those that may be equal are found."""


def require_stored(model: BaseModel, stored: Mapping[int, StoredModule], *, trust_remote_code: bool = False) -> None:
    """Raise ``SourceError``, naming file and tensor, unless each tensor of ``model`` that counts is what is stored.

    ``model`` has the dtypes that it was loaded in. What is not finite is refused as well.
    """
    for index, module in enumerate(modules_of(model)):
        files = stored.get(index)
        if files is None:
            continue
        if hasattr(module, "auto_model"):
            encoder: Any = module.auto_model
            again, unplaced = _second_load(encoder, files, trust_remote_code)
            loaded, same = encoder.state_dict(), again.state_dict()
            used = _used(encoder, loaded)
            for name, tensor in used.items():
                if name not in same or not _equal(tensor, same[name]):
                    raise SourceError(f"{_shown(files)}: tensor {name!r} is another at each load, so it is not stored")
            # A split or merged tensor has no equal; the report and the second load speak for it, unless it is an
            # adapter's, of which the report is only a part.
            _require_traced(loaded, used, files, None if files.base is not None else unplaced)
        elif type(module).__name__ == "StaticEmbedding":
            require_stored_table(module.embedding.weight, files)
        else:
            _require_traced(state := module.state_dict(), state, files, None)
    for index, module in enumerate(modules_of(model)):
        if index not in stored and next(module.parameters(), None) is not None:
            raise SourceError(
                f"module {index}, {type(module).__name__}: no file holds its weights; a loader made them up"
            )


def require_stored_adapter(state: Tensors, files: StoredModule) -> None:
    """The same of the tensors of an adapter."""
    _require_traced(state, state, files, None)


def _used(encoder: Any, tensors: Tensors) -> Tensors:
    """Those that take part in what ``encoder`` answers."""
    unused = _UNUSED if encoder.base_model is encoder else ()
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(unused)}


def _shown(files: StoredModule) -> str:
    """The weights' file; of shards and adapters the first."""
    return str(files.files[0])


def _second_load(encoder: Any, files: StoredModule, trust_remote_code: bool) -> tuple[Any, set[str]]:
    """The encoder loaded again, with other random numbers for what is not stored; names of what has no place in it.

    Raises ``SourceError`` for what the loader reports: tensors without a place, and places without a tensor.
    """
    import torch

    def load(folder: Path) -> tuple[Any, dict[str, Any]]:
        loaded: tuple[Any, dict[str, Any]] = type(encoder).from_pretrained(
            str(folder),
            config=encoder.config,
            dtype=encoder.dtype,
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
        return loaded

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed((torch.initial_seed() + 1) % 2**63)
        if files.base is not None:
            plain, report = load(files.base)
            _require_nothing_reported(plain, report, files)
        again, report = load(files.folder)
    _require_nothing_reported(again, report, files)
    return again, set(report["unexpected_keys"])


def _require_nothing_reported(encoder: Any, report: Mapping[str, Any], files: StoredModule) -> None:
    absent = set(report["missing_keys"]) | {key for key, *_ in report["mismatched_keys"]}
    missing = [name for name in _used(encoder, encoder.state_dict()) if name in absent]
    if missing:
        raise SourceError(
            f"{_shown(files)}: has no tensor {missing[0]!r}{_more(missing)}, which {files.config} asks for; "
            "a loader would make it up"
        )
    # Heads of other tasks may be stored beside the encoder; layers of its own that it does not have, may not.
    prefix, parts = f"{encoder.base_model_prefix}.", (encoder, encoder.base_model)
    children = {name for part in parts for name, _ in part.named_children()}
    buffers = {name for part in parts for name, _ in part.named_buffers()}
    left = sorted(name.removeprefix(prefix) for name in report["unexpected_keys"])
    left = [name for name in left if name.split(".", 1)[0] in children - {"pooler"} and name not in buffers]
    if left:
        raise SourceError(
            f"{_shown(files)}: holds a tensor {left[0]!r}{_more(left)}, for which {files.config} has no place"
        )


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _require_traced(
    loaded: Tensors, used: Collection[str], files: StoredModule, unplaced: Collection[str] | None
) -> None:
    """Find the stored tensor that each of ``loaded`` equals; refuse what is ``used`` and has none, or is not finite.

    ``unplaced`` names stored tensors that went nowhere. What equals none may have come out of the others, if those
    hold enough numbers; not where ``unplaced`` is ``None``.
    """
    waiting: dict[Any, list[str]] = defaultdict(list)
    for name, tensor in loaded.items():
        waiting[_key(tensor)].append(name)
    left = set(loaded)
    unclaimed = 0
    for file in files.files:
        for stored_name, stored in read_tensors(file):
            assert stored is not None
            claimed = False
            for dtype in {tensor.dtype for tensor in loaded.values() if tensor.shape == stored.shape}:
                cast = stored.to(dtype)
                equal = [name for name in waiting.get(_key(cast), ()) if _equal(loaded[name], cast)]
                claimed |= bool(equal)
                if any(name in used for name in equal):
                    require_finite({stored_name: cast}, file)
                left.difference_update(equal)
            if not claimed and unplaced is not None and stored_name not in unplaced:
                unclaimed += stored.numel()
    others = [name for name in loaded if name in left and name in used]
    if others and (unplaced is None or unclaimed < sum(loaded[name].numel() for name in others)):
        raise SourceError(
            f"{_shown(files)}: no tensor holds the values of {others[0]!r}{_more(others)} in the loaded model"
        )
    require_finite({name: loaded[name] for name in others}, files.files[0])


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _key(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.shape, _bits(tensor.detach().reshape(-1)[:_HEAD]).numpy().tobytes()


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit for bit: NaN equals itself."""
    import torch

    return a.dtype == b.dtype and a.shape == b.shape and bool(torch.equal(_bits(a), _bits(b)))


def require_finite(tensors: Tensors, file: Path | str) -> None:
    """Raise ``SourceError`` naming ``file``, tensor and first row that has a NaN or an infinity in it."""
    import torch

    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        # A sum is found in a fraction of the time, and is finite only where all is; it may also overflow.
        if math.isfinite(float(tensor.sum(dtype=torch.float32))) or bool(torch.isfinite(tensor).all()):
            continue
        place = tuple(int(index) for index in torch.nonzero(~torch.isfinite(tensor))[0])
        where = f"row {place[0]}" if tensor.ndim > 1 else f"element {place[0] if place else 0}"
        raise SourceError(f"{file}: tensor {name!r} has {float(tensor[place])} in {where}; expected finite numbers")


def explain_mismatch(stored: Iterable[StoredModule], quietly: Callable[[], Any]) -> str | None:
    """Why a load has failed, where it is for tensors of other shapes than the configuration says; else ``None``.

    ``quietly`` makes a context without the loaders' chatter.
    """
    for files in stored:
        if not files.config.exists() or "model_type" not in (config := read_json(files.config)):
            continue
        try:
            from transformers import AutoModel

            with quietly():
                _, report = AutoModel.from_pretrained(
                    str(files.base or files.folder),
                    local_files_only=True,
                    ignore_mismatched_sizes=True,
                    output_loading_info=True,
                )
        except Exception:  # whatever it was, the loader's own words are shown then
            return None
        for name, found, wanted in sorted(report["mismatched_keys"]):
            if name.startswith(_UNUSED):
                continue
            sizes = {b for a, b in zip(found, wanted, strict=False) if a != b} if len(found) == len(wanted) else set()
            fields = sorted(key for key, value in config.items() if type(value) is int and value in sizes)
            says = " and ".join(f"{key} {config[key]}" for key in fields) or "another configuration"
            shapes = f"is {list(found)}, but {files.config} asks for {list(wanted)}"
            return f"{_shown(files)}: tensor {name!r} {shapes} ({says})"
    return None


def used_state(encoder: Any) -> Tensors:
    """The tensors by name that take part in what the encoder answers; with PEFT adapters in it, those of the same
    encoder with the adapters merged in.

    ``encoder`` stays as it is.
    """
    if not getattr(encoder, "_hf_peft_config_loaded", False):
        return _used(encoder, encoder.state_dict())
    from copy import deepcopy

    import torch

    merged = deepcopy(encoder)
    with torch.no_grad():
        _merge_inside(merged)
    return _used(merged, merged.state_dict())


def base_state(encoder: Any) -> Tensors:
    """The same of an encoder as it is without its adapters."""
    return _used(encoder, _without_adapters(encoder))


def _without_adapters(encoder: Any) -> Tensors:
    state = {name: tensor for name, tensor in encoder.state_dict().items() if ".lora_" not in name}
    return {name.replace(".base_layer.", "."): tensor for name, tensor in state.items()}


def unused_state(encoder: Any) -> Tensors:
    """The tensors by name that take no part in it, which the encoder is saved with all the same."""
    state = _without_adapters(encoder)
    used = _used(encoder, state)
    return {name: tensor for name, tensor in state.items() if name not in used}


def _merge_inside(parent: Any) -> None:
    for name, child in list(parent.named_children()):
        if hasattr(child, "unload_and_optionally_merge_module"):  # as peft's own merge_and_unload does it
            child = child.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
            setattr(parent, name, child)
        elif hasattr(child, "base_layer"):
            child.merge()
            setattr(parent, name, child.get_base_layer())
        else:
            _merge_inside(child)
