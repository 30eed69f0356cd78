"""Adapters for tasks: several sets of numbers that are added to the weights of one encoder (LoRA, Hu et al. 2021,
arXiv:2106.09685), of which a text is embedded with one, or with none.

Published models have a folder for each beside the encoder's weights, as ``save_pretrained`` of the peft package writes
it (0.21); a live model has those that ``load_adapter`` or ``add_adapter`` put into it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from toolkit.errors import SourceError, UnsupportedError
from toolkit.source.files import read_json
from toolkit.source.stored import ADAPTER_CONFIG, ADAPTER_FILES, StoredModule
from toolkit.source.traced import require_stored_adapter

if TYPE_CHECKING:
    from sentence_transformers.base.model import BaseModel

__all__ = ["Factors", "active_adapters", "adapted", "digest_of", "factors", "load_adapters", "task_adapters"]

Array = npt.NDArray[np.float32]

Factors = Mapping[str, tuple[Array, Array]]
"""By the name of a tensor ``[rows, columns]``: ``[rows, rank]`` and ``[rank, columns]``. Their product is added."""

_MODEL_TYPES = ("jina_embeddings_v3",)
"""Whose adapters are for tasks. Into other models the one in use is merged."""

_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "lora_bias": (False,),
    "modules_to_save": (None, [], ()),
    "trainable_token_indices": (None,),
    "use_dora": (False,),
}
"""What a configuration of peft must say for the product of two matrices to be all that an adapter adds."""


def task_adapters(first: Any) -> tuple[str, ...]:
    """The names of the adapters of a model's ``first`` module where texts may be embedded with one or another: none,
    where the only one is in use."""
    encoder = getattr(first, "auto_model", None)
    if (
        encoder is None
        or encoder.config.model_type not in _MODEL_TYPES
        or not getattr(encoder, "_hf_peft_config_loaded", False)
    ):
        return ()
    names = tuple(encoder.peft_config)
    return () if names == active_adapters(encoder) else names


def active_adapters(encoder: Any) -> tuple[str, ...]:
    """The names of those that an encoder is used with at present."""
    first = _layers(encoder)[0]
    return () if first.disable_adapters else tuple(first.active_adapters)


def load_adapters(model: BaseModel, folder: Path) -> None:
    """Put the adapters that lie in ``folder``, that of an encoder, into the model that was loaded from it, which stays
    in use without them, as sentence-transformers loads it. Each number is traced to the file that holds it.

    Raises ``SourceError`` for what is missing or damaged, or if there is no peft package.
    """
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if config.get("model_type") not in _MODEL_TYPES:
        return
    found = sorted(file.parent for file in folder.glob(f"*/{ADAPTER_CONFIG}"))
    if not found:
        return
    try:
        import peft  # noqa: F401
    except ModuleNotFoundError as error:
        raise SourceError(
            f"{found[0]}: holds an adapter; install the peft package (pip install peft) to load it, or move it away to "
            "embed without"
        ) from error
    encoder: Any = next(module.auto_model for module in model if hasattr(module, "auto_model"))
    for place in found:
        file = next((place / name for name in ADAPTER_FILES if (place / name).is_file()), None)
        if file is None:
            raise SourceError(f"{place}: no weights; expected {' or '.join(ADAPTER_FILES)}")
        try:
            encoder.load_adapter(str(place), adapter_name=place.name)
        except Exception as error:  # whatever a damaged adapter makes the loaders raise
            raise SourceError(f"{place}: transformers cannot load it: {' '.join(str(error).split())[:500]}") from error
        require_stored_adapter(encoder.get_adapter_state_dict(place.name), StoredModule(place, (file,)))
    encoder.disable_adapters()


@contextmanager
def adapted(model: BaseModel, name: str) -> Iterator[None]:
    """``model`` with that adapter in use; afterwards it is as it was."""
    encoder = next(module.auto_model for module in model if hasattr(module, "auto_model"))
    layers = _layers(encoder)
    # not by set_adapter, which also changes what is trained
    before = [(layer._active_adapter, layer._disable_adapters) for layer in layers]
    try:
        for layer in layers:
            layer._active_adapter, layer._disable_adapters = [name], False
        yield
    finally:
        for layer, (active, disabled) in zip(layers, before, strict=True):
            layer._active_adapter, layer._disable_adapters = active, disabled


def factors(encoder: Any, names: Sequence[str], file: str) -> Factors:
    """What the adapters of these names add, together, to the tensors of ``encoder`` as it is without them.

    Raises ``UnsupportedError`` naming ``file``, the encoder's, for what is more than the product of two matrices, and
    ``SourceError`` for what is not finite.
    """
    found: dict[str, list[tuple[Array, Array]]] = {}
    for name in names:
        _require_plain(encoder.peft_config[name], name, file)
        for place, layer in encoder.named_modules():
            if hasattr(layer, "lora_A") and (part := _factors_of(layer, name, f"{file}: {place}")):
                if not all(np.isfinite(matrix).all() for matrix in part):
                    raise SourceError(f"{file}: the adapter {name!r} of {place} has numbers that are not finite")
                found.setdefault(f"{place}.weight", []).append(part)
    return {
        place: (np.concatenate([left for left, _ in parts], 1), np.concatenate([right for _, right in parts], 0))
        for place, parts in found.items()
    }


def digest_of(adapter: Factors) -> str:
    """sha256 of names and numbers, in hexadecimal."""
    sha = hashlib.sha256()
    for name in sorted(adapter):
        for part in adapter[name]:
            sha.update(f"{name} {part.shape}\n".encode())
            sha.update(part.data)
    return sha.hexdigest()


def _factors_of(layer: Any, name: str, place: str) -> tuple[Array, Array] | None:
    kind, scale = type(layer).__name__, layer.scaling.get(name)
    if kind not in ("Linear", "Embedding") or getattr(layer, "fan_in_fan_out", False) or layer.merged:
        state = f"{kind}{', merged' if layer.merged else ''}"
        raise UnsupportedError(place, "layer with an adapter", state, "Linear and Embedding, not merged")
    if name in layer.lora_A:
        return _array(layer.lora_B[name].weight * scale), _array(layer.lora_A[name].weight)
    if name in layer.lora_embedding_A:
        return _array(layer.lora_embedding_A[name].T), _array(layer.lora_embedding_B[name].T * scale)
    return None


def _array(tensor: Any) -> Array:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), np.float32)


def _require_plain(config: Any, name: str, file: str) -> None:
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if kind != "LORA":
        raise UnsupportedError(file, f"peft_type of the adapter {name!r}", kind, "LORA")
    for field, allowed in _PLAIN.items():
        if (value := getattr(config, field, allowed[0])) not in allowed:
            raise UnsupportedError(file, f"{field} of the adapter {name!r}", value, str(allowed[0]))


def _layers(encoder: Any) -> list[Any]:
    """The layers that adapters add to."""
    return [layer for layer in encoder.modules() if hasattr(layer, "_disable_adapters")]
