"""What a model is that sentence-transformers has loaded: settings put on it, refusals that only it shows, and what its
user should know of it."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from toolkit.errors import InputError, SourceError, UnsupportedError
from toolkit.source.settings import SourceSettings
from toolkit.source.tasks import Task

if TYPE_CHECKING:
    from sentence_transformers.base.model import BaseModel

__all__ = [
    "asked",
    "expansion_id",
    "first_of",
    "half_precision_notice",
    "in_float32",
    "modules_of",
    "notices",
    "prompt_tokens",
    "require_independent_rows",
    "require_text_encoder",
    "with_settings",
]

_OUTPUTS = {
    "feature-extraction": "last_hidden_state",
    "sequence-classification": "logits",
    "fill-mask": "logits",
    "text-generation": "logits",
}
"""What a Transformer module takes from its encoder's class, by what it does."""
_NAMES = ("token_embeddings", "scores", "causal_logits")
"""What it may call that; other names are the specs' to refuse."""

Model = TypeVar("Model", bound="BaseModel")
Array = npt.NDArray[np.float32]

# How far a half-precision model's own vectors were from those of its weights computed in float32.
_HALF_ERROR = {"float16": "6e-4", "bfloat16": "5e-3"}


def with_settings(model: Model, settings: SourceSettings, *, plain: bool) -> Model:
    """``model`` with ``settings``, a copy where it matters: the caller's model stays as it is, weights are shared.

    ``plain`` says that its pooling is sentence-transformers' default, not the checkpoint's. Raises ``InputError`` for
    settings that do not go with the model.
    """
    if settings == SourceSettings():
        return model
    model = copy.copy(model)
    model._modules = dict(model._modules)
    for name in ("truncate_dim", "pooling"):
        if getattr(settings, name) is not None and not hasattr(model, "truncate_dim"):
            raise InputError(f"{name} is for models of embeddings; this is a {type(model).__name__}")
    if settings.pooling is not None:
        if not plain:
            raise InputError("pooling is for folders without modules.json; this model has a pooling of its own")
        model._modules["1"] = type(model[1])(model[0].get_embedding_dimension(), settings.pooling)
    if settings.max_seq_length is not None:
        if routed(model):
            raise InputError("max_seq_length is for models without routes; a route's own folder says it")
        if not hasattr(model[0], "processor"):
            raise InputError(f"max_seq_length is for a Transformer; a {type(model[0]).__name__} has no such limit")
        first = next(iter(model._modules))
        model._modules[first] = copy.copy(model._modules[first])
        model[0].processor = copy.deepcopy(model[0].processor)
        model.max_seq_length = settings.max_seq_length
    if settings.prompt_name is not None:
        if settings.prompt_name not in model.prompts:
            raise InputError(f"prompt_name is {settings.prompt_name!r}; the model has: {', '.join(model.prompts)}")
        model.default_prompt_name = settings.prompt_name
    if (cut := settings.truncate_dim) is not None:
        model.truncate_dim = None
        if cut > (dim := model.get_embedding_dimension()):
            raise InputError(f"truncate_dim is {cut}, but the model's vectors have {dim} numbers")
        model.truncate_dim = cut
    return model


def routed(model: BaseModel) -> Any:
    """The Router that the model consists of, or ``None``."""
    first = model[0]
    return first if type(first).__name__ == "Router" else None


def modules_of(model: BaseModel) -> list[Any]:
    """The modules, those of routes too, each once."""
    found: dict[int, Any] = {}
    for module in model:
        routes = module.sub_modules.values() if type(module).__name__ == "Router" else [[module]]
        found |= {id(part): part for route in routes for part in route if id(part) not in found}
    return list(found.values())


def first_of(model: BaseModel) -> Any:
    """The module that takes texts; where there are routes, the first Transformer."""
    return next((module for module in modules_of(model) if hasattr(module, "auto_model")), model[0])


def require_text_encoder(model: BaseModel, folder: str, task: Task) -> None:
    """Refuse modules that are not sentence-transformers' own, encoders not of transformers, and more than plain text.

    Raises ``UnsupportedError``.
    """
    for index, module in enumerate(modules_of(model)):
        _require_home(module, "sentence_transformers", folder, f"module {index}")
        if hasattr(module, "auto_model"):
            _require_text_only(module, folder, task)


def _require_text_only(first: Any, folder: str, task: Task) -> None:
    _require_home(first.auto_model, "transformers", f"{folder}/config.json", "encoder")
    file = f"{folder}/sentence_bert_config.json"
    if (output := _OUTPUTS.get(first.transformer_task)) is None:
        raise UnsupportedError(file, "transformer_task", first.transformer_task, _OUTPUTS)
    # A chat template, for example, would be put around every text; pairs may be put into one, as texts that stay texts:
    # where contents are lists, the address of a picture is a picture.
    forward = {"method": "forward", "method_output_name": output}
    allowed: list[object] = [{"text": forward}]
    if task.name == "rerank":
        allowed.append({"text": forward, "message": {**forward, "format": "flat"}})
    if (modality := first.modality_config) not in allowed and first.module_output_name in _NAMES:
        raise UnsupportedError(file, "modality_config", modality, " or ".join(map(str, allowed)))
    for field in ("query_length", "document_length"):
        if (value := getattr(first, field)) is not None and not task.cut_by_role:
            raise UnsupportedError(file, field, value, "none: max_seq_length alone cuts texts")


def _require_home(module: Any, package: str, file: str, field: str) -> None:
    kind = type(module)
    if kind.__module__.split(".")[0] != package:
        raise UnsupportedError(file, field, f"{kind.__module__}.{kind.__qualname__}", f"classes of {package}")


def require_independent_rows(model: BaseModel, answers: Callable[[list[str]], Array], folder: str) -> None:
    """Refuse a model whose own answer to a text depends on the other texts of the batch: nothing can equal it.

    ``answers`` are those of ``model``. Raises ``UnsupportedError`` where the tokenizer's ``padding_side`` is to blame,
    else ``SourceError``.
    """
    text, longer = "hello", "hello, this is a longer text than the other one"
    try:
        alone = answers([text])[0]
        beside = answers([text, longer])[0]
    except (IndexError, RuntimeError, ValueError) as error:  # what torch raises for models that do not fit together
        raise SourceError(f"{folder}: the original model cannot take a text: {error}") from error
    difference = float(np.max(np.abs(alone - beside)))
    if not difference > 1e-3 * float(np.max(np.abs(alone))):  # rounding, which differs by batch size
        return
    reason = f"the original's own answers depend on the batch: {text!r} alone and in a pair differ by {difference:.2g}"
    if (side := getattr(model.tokenizer, "padding_side", "right")) != "right":
        file = f"{folder}/tokenizer_config.json"
        raise UnsupportedError(file, "padding_side", side, f"right, where positions count; {reason}")
    raise SourceError(f"{folder}: {reason}")


def notices(model: BaseModel, settings: SourceSettings, folder: str, *, pooled: bool) -> list[str]:
    """What the user of a model that can be served should know of it all the same. ``pooled``: nothing but
    sentence-transformers' default says how it is pooled."""
    found = []
    if pooled:
        chosen = (
            f"{settings.pooling} pooling" if settings.pooling else "mean pooling, as sentence-transformers takes it"
        )
        found.append(f"{folder}: has no modules.json; served with {chosen} (--pooling sets it)")
    if settings.prompt_name is not None and not model.prompts[settings.prompt_name]:
        found.append(f"prompt {settings.prompt_name!r} is empty in this model: texts are taken as they are")
    return found


def prompt_tokens(model: BaseModel, prompt: str, task: str | None = None) -> int:
    """How many tokens at the start of a text belong to ``prompt``, as a pooling without the prompt counts them."""
    return int(model.preprocess([""], prompt=prompt, task=task).get("prompt_length") or 0)


def expansion_id(model: BaseModel, token: str | None) -> int:
    """The id that a query is filled up with: of ``token``, else of the mask, else of the end of a text."""
    tokenizer: Any = model.tokenizer
    if token is not None:
        return int(tokenizer.convert_tokens_to_ids(token))
    return int(tokenizer.eos_token_id if tokenizer.mask_token_id is None else tokenizer.mask_token_id)


def half_precision_notice(folder: str, dtype: str) -> str:
    """What "equal" means for weights of half precision."""
    return (
        f"{folder}: the weights are {dtype}; equal means equal to those weights computed in float32. "
        f"sentence-transformers on the folder as it is loaded computes in {dtype} and differs from that by up to "
        f"about {_HALF_ERROR.get(dtype, 'its own rounding')}"
    )


def in_float32(model: Model) -> Model:
    """``model`` with all its numbers in float32, changed in place.

    Weights of half precision lie in a file without a name then, as stored ones of float32 lie in theirs: what is mapped
    can leave memory, where they would be twice else, as the original and as variables. They stay in memory where the
    folder for such files has no room for them twice.
    """
    import torch

    half = [parameter for parameter in model.parameters() if parameter.dtype in (torch.float16, torch.bfloat16)]
    count = sum(parameter.numel() for parameter in half)
    if count and shutil.disk_usage(tempfile.gettempdir()).free > 2 * 4 * count:
        with tempfile.TemporaryFile() as file:
            numbers = torch.from_numpy(np.memmap(file, np.float32, "w+", shape=(count,)))
        for parameter, place in zip(half, numbers.split([parameter.numel() for parameter in half]), strict=True):
            place = place.view(parameter.shape)
            place.copy_(parameter.detach())
            parameter.data = place
    model.float()
    return model


def asked(model: Any, prompt_name: str | None, texts: Sequence[str], **options: Any) -> Any:
    """What users of sentence-transformers call for a prompt, of any class that has ``encode``."""
    if prompt_name == "query":
        return model.encode_query(list(texts), show_progress_bar=False, **options)
    if prompt_name == "document":
        return model.encode_document(list(texts), show_progress_bar=False, **options)
    return model.encode(list(texts), prompt_name=prompt_name, show_progress_bar=False, **options)
