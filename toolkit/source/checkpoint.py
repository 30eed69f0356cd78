"""Folder, hub id or live object of sentence-transformers -> raw module configurations and tensors.

The one reader of checkpoints is sentence-transformers itself: what it loads is the reference that an export must
equal, so its own view of tokenizer, prompts and sequence length is taken instead of parsing those files a second
time. Before it loads anything, the folder is inspected (``toolkit.source.folder``).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from toolkit.errors import InputError, MissingExtraError, SourceError, SourceNotice, UnsupportedError
from toolkit.source.adapters import Factors, active_adapters, digest_of, factors, load_adapters, task_adapters
from toolkit.source.chat import chat_settings, takes_messages
from toolkit.source.folder import inspect_folder
from toolkit.source.hub import resolve
from toolkit.source.loaded import (
    half_precision_notice,
    in_float32,
    modules_of,
    notices,
    require_text_encoder,
    with_settings,
)
from toolkit.source.router import ways
from toolkit.source.settings import SourceSettings
from toolkit.source.static import embedding_config, static_tokenizer
from toolkit.source.stored import find_stored
from toolkit.source.tasks import TASKS, Task, module_type, require_task, task_of_class
from toolkit.source.traced import base_state, explain_mismatch, require_finite, require_stored, used_state
from toolkit.tokenizer import TokenizerSource

if TYPE_CHECKING:
    from sentence_transformers.base.model import BaseModel

__all__ = ["Checkpoint", "RawModule", "open_checkpoint"]

# configuration that depends on who saved or loaded the checkpoint, not on what it computes
_VOLATILE = ("_name_or_path", "transformers_version", "dtype", "architectures")


@dataclass(frozen=True)
class RawModule:
    """One module of the checkpoint: class name, configuration and tensors as sentence-transformers holds them.

    ``file`` names the configuration file, for error messages. ``tensors`` maps state-dict names to float32 arrays.
    ``adapter`` is what is added to the tensors, unless merged.
    """

    type: str
    file: str
    config: Mapping[str, Any]
    tensors: Mapping[str, npt.NDArray[Any]]
    adapter: Factors = field(default_factory=dict)


@dataclass(frozen=True)
class RawActivation:
    """A torch activation: the dotted ``name`` of its class, how it prints itself, and how one with its class's default
    options does (``None``: there are no defaults)."""

    name: str
    shown: str
    default: str | None


@dataclass(frozen=True)
class Checkpoint:
    """All that an export reads from its source.

    ``task`` is what its class in sentence-transformers is for, a name of :data:`toolkit.source.tasks.TASKS`.
    ``tokenizer`` is the tokenizer as the tokenizers package serialises it, with the padding and truncation that
    sentence-transformers sets. ``prompt`` is what the original puts before each text by default (empty: nothing), and
    ``prompts`` are those that it puts there by name.
    ``truncate_dim`` cuts an embedding (``None``: not cut). ``reference`` is the live model, in evaluation mode and
    float32 on the CPU: what an export must equal. ``settings`` were put on it before it was read. ``notices`` are what
    its user should know. ``tokenizer_file`` is the folder's ``tokenizer.json``, for those that take it as it is.
    ``token_types``: the encoder uses the tokenizer's token types. ``activation`` is what a CrossEncoder applies to its
    scores.
    ``answers`` are there where another model than ``reference`` gives the answers to rows (texts, or pairs) that an
    export must equal, a Keras model: by the name of the prompt (``None``: by default), float32 of each row.
    Where a Router sends texts ways of their own, the checkpoint is that of a text that is taken for nothing, and
    ``ways`` are those of a ``query`` and of a ``document``. Those whose names are among ``adapters`` are of the encoder
    with that adapter.
    """

    source: str
    task: str
    modules: tuple[RawModule, ...]
    tokenizer: TokenizerSource
    prompt: str
    prompts: Mapping[str, str]
    truncate_dim: int | None
    digest: str
    reference: BaseModel = field(repr=False, compare=False)
    settings: SourceSettings = SourceSettings()
    notices: tuple[str, ...] = ()
    tokenizer_file: Path | None = None
    token_types: bool = False
    activation: RawActivation | None = None
    answers: Mapping[str | None, Callable[[Sequence[Any]], Any]] = field(
        default_factory=dict, repr=False, compare=False
    )
    ways: Mapping[str, Checkpoint] = field(default_factory=dict, repr=False)
    adapters: tuple[str, ...] = ()

    @property
    def routes(self) -> dict[str, Checkpoint]:
        """The ways of a Router."""
        return {name: way for name, way in self.ways.items() if name not in self.adapters}


def open_checkpoint(
    source: str | Path | BaseModel,
    *,
    task: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    settings: SourceSettings = SourceSettings(),
    model_types: Collection[str] | None = None,
) -> Checkpoint:
    """Read a checkpoint.

    ``source`` is a folder that sentence-transformers saved, or a plain encoder's as transformers writes it, a model id
    on the Hugging Face hub (``revision`` picks a branch, tag or commit) or a live model, which stays as it is. Its
    class says what its task is; ``task`` does where a plain folder leaves that open. ``settings`` are put on it first.
    Code that a checkpoint brings along is run only with ``trust_remote_code``. An encoder of none of the
    ``model_types`` is refused before its weights are looked at (``None``: not here). Of a folder every tensor that is
    used is traced to the file that holds it. What its user should know is said as a ``SourceNotice`` warning.

    Raises ``SourceError`` if it cannot be found or read, ``UnsupportedError`` naming what is not supported,
    ``InputError`` for settings or a task that do not go with it.
    """
    asked = require_task(task) if task is not None else None
    if not isinstance(source, str | Path):
        return _said(_from_model(source, f"live {type(source).__name__}", "the live model", settings, asked))
    path = resolve(source, revision)
    folder = inspect_folder(path, trust_remote_code, asked)
    stored = find_stored(folder.modules, lambda base: resolve(base, None), model_types)
    try:
        model = _load(path, folder.task, trust_remote_code)
    except SourceError as error:
        if reason := explain_mismatch(stored.values(), _quiet_loading):
            raise SourceError(reason) from error
        raise
    with _quiet_loading():
        require_stored(model, stored, trust_remote_code=trust_remote_code)
        if folder.task.name == "embed" and folder.modules[0].type == "Transformer":
            load_adapters(model, folder.modules[0].path)
    half = [str(dtype).removeprefix("torch.") for dtype in {p.dtype for p in model.parameters()} if dtype.itemsize == 2]
    # transformers loads half-precision checkpoints as such; the reference is their values computed in float32.
    checkpoint = _from_model(in_float32(model), str(source), str(path), settings, folder.task, plain=folder.plain)
    notes = (*checkpoint.notices, *(half_precision_notice(str(path), dtype) for dtype in half))
    # routes may have tokenizers of their own
    return _said(
        replace(checkpoint, notices=notes, tokenizer_file=None if checkpoint.routes else folder.tokenizer_file)
    )


def _said(checkpoint: Checkpoint) -> Checkpoint:
    for notice in checkpoint.notices:
        warnings.warn(notice, SourceNotice, stacklevel=3)
    return checkpoint


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Hide the loaders' progress bars and chatter; errors are raised and reported by the callers."""
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity()
    names = ("sentence_transformers", "transformers")
    levels = {name: logging.getLogger(name).level for name in names}
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
        transformers_logging.enable_progress_bar()
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _load(folder: Path, task: Task, trust_remote_code: bool) -> BaseModel:
    try:
        import sentence_transformers
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "sentence-transformers", "convert") from error
    try:
        with _quiet_loading():
            return getattr(sentence_transformers, task.model_class)(
                str(folder), device="cpu", local_files_only=True, trust_remote_code=trust_remote_code
            )
    except Exception as error:  # whatever a damaged checkpoint makes the loaders raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SourceError(f"{folder}: sentence-transformers cannot load it: {reason[:500]}") from error


def _from_model(
    model: BaseModel, source: str, folder: str, settings: SourceSettings, asked: Task | None, *, plain: bool = False
) -> Checkpoint:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "convert") from error
    task = _task_of(model)
    if asked not in (None, task):
        raise InputError(f"task {asked.name!r}: the source is a {type(model).__name__}, whose task is {task.name!r}")
    dtypes = {parameter.dtype for parameter in model.parameters()} - {torch.float32}
    if dtypes:
        raise UnsupportedError(folder, "dtype", str(dtypes.pop()), "torch.float32 (call model.float() first)")
    require_text_encoder(model, folder, task)
    model = with_settings(model.eval(), settings, plain=plain)
    embeds, taken, parts = task.name == "embed", ways(model, folder), modules_of(model)
    first, routed = taken[None][0], len(taken) > 1
    modules = tuple(_raw_module(index, part, folder, task, routed=routed) for index, part in enumerate(parts))
    source_of_ids, cut = _tokenizer_of(first, folder), getattr(model, "truncate_dim", None)
    prompt = ""
    if model.default_prompt_name is not None:
        prompt = str(model.prompts.get(model.default_prompt_name) or "")
    prompts = {str(name): str(text or "") for name, text in model.prompts.items()}
    named: list[object] = [prompts] if any(prompts.values()) else []  # those without came before prompts counted
    activation = _raw_activation(model.activation_fn) if hasattr(model, "activation_fn") else None
    if activation is not None:
        named.append(asdict(activation))
    if (most := getattr(model, "max_active_dims", None)) is not None:
        named.append({"max_active_dims": most})
    raw = {id(module): found for module, found in zip(parts, modules, strict=True)}
    by_task = {name: tuple(raw[id(module)] for module in way) for name, way in taken.items()}
    tokenizers = {name: _tokenizer_of(way[0], folder) for name, way in taken.items()}
    modules = by_task[None]
    named += [(name, _digest(by_task[name], tokenizers[name])) for name in taken if name is not None]
    chosen = task_adapters(first) if embeds and not routed else ()
    adapters = {name: factors(first.auto_model, [name], modules[0].file) for name in chosen}
    named += [(name, digest_of(adapter)) for name, adapter in adapters.items()]
    if modules[0].adapter:  # which is that of other texts
        named.append(digest_of(modules[0].adapter))
    checkpoint = Checkpoint(
        source=source,
        task=task.name,
        modules=modules,
        tokenizer=source_of_ids,
        prompt=prompt,
        prompts=prompts,
        truncate_dim=cut,
        digest=_digest(modules, source_of_ids, prompt, cut, *named),
        reference=model,
        settings=settings,
        token_types=_takes_token_types(first),
        activation=activation,
        adapters=tuple(adapters),
        notices=tuple(notices(model, settings, folder, pooled=plain and embeds)),
    )
    apart = {name: replace(checkpoint, modules=by_task[name], tokenizer=tokenizers[name]) for name in taken if name}
    for name, adapter in adapters.items():
        apart[name] = replace(checkpoint, modules=(replace(modules[0], adapter=adapter), *modules[1:]))
    return replace(checkpoint, ways=apart)


def _tokenizer_of(first: Any, folder: str) -> TokenizerSource:
    """The tokenizer of a model's ``first`` module, as that calls it."""
    if type(first).__name__ == "StaticEmbedding":
        return static_tokenizer(first.tokenizer, f"{folder}/tokenizer.json")
    alone = type(first).__name__ == "SparseStaticEmbedding"  # which looks at a text's own tokens
    tokenizer: Any = getattr(first, "tokenizer", None)
    backend, kind = getattr(tokenizer, "backend_tokenizer", None), type(tokenizer).__name__
    fast = "fast tokenizers (tokenizers package), every step of which is its own"
    if backend is None:
        raise UnsupportedError(f"{folder}/tokenizer_config.json", "tokenizer_class", kind, fast)
    try:
        written = backend.to_str()
    except Exception as error:  # of no class of its own, where a step is a function in Python
        raise UnsupportedError(
            f"{folder}/tokenizer_config.json", "tokenizer_class", kind, fast, because=str(error)
        ) from error
    if getattr(tokenizer, "split_special_tokens", False) or backend.encode_special_tokens:
        raise UnsupportedError(f"{folder}/tokenizer_config.json", "split_special_tokens", True, "false")
    limit = tokenizer.model_max_length if alone else first.max_seq_length
    return TokenizerSource(
        json=_tokenizer_json(written, special=not alone),
        file=f"{folder}/tokenizer.json",
        # transformers marks "no limit" by a huge number
        max_length=int(limit) if limit is not None and limit < 1_000_000 else None,
        truncation_side=tokenizer.truncation_side,
        pad_id=tokenizer.pad_token_id,
    )


def _task_of(model: Any) -> Task:
    """The task of a live model's class. Raises ``InputError`` for anything else."""
    for kind in type(model).__mro__:
        if kind.__module__.startswith("sentence_transformers.") and (task := task_of_class(kind.__name__)):
            return task
    classes = " or ".join(task.model_class for task in TASKS.values())
    raise InputError(f"the source is a {type(model).__name__}; expected a folder, hub id or {classes}")


def _tokenizer_json(written: str, *, special: bool) -> str:
    """A tokenizer without padding and truncation: both are set anew by each call of it, and what sentence-transformers'
    calls set travels beside it. ``special``: with the tokens that it puts around a text."""
    raw = json.loads(written)
    raw["padding"], raw["truncation"] = None, None
    if not special:
        raw["post_processor"] = None
    return json.dumps(raw, ensure_ascii=False)


def _raw_module(index: int, module: Any, folder: str, task: Task, *, routed: bool) -> RawModule:
    kind, adapter = module_type(type(module).__name__), cast(Factors, {})
    if kind not in task.module_types:
        raise UnsupportedError(folder, f"module {index}", kind, task.supported_in_place_of(kind))
    config = dict(module.get_config_dict())
    if kind == "Transformer":
        config["processing_kwargs"] = getattr(module, "processing_kwargs", None) or {}
        config["query_expansion"] = getattr(module, "query_expansion", None)
        if takes_messages(module):
            config.update(chat_settings(module))
        config.update(module.auto_model.config.to_dict())
        config.update(_rounded(module.auto_model))
        if module.auto_model.base_model is not module.auto_model:  # a head is around it
            config["base_model_prefix"] = module.auto_model.base_model_prefix
        file = f"{folder}/config.json"
        chosen = task.name == "embed" and not routed and bool(task_adapters(module))
        state = base_state(module.auto_model) if chosen else used_state(module.auto_model)
        adapter = factors(module.auto_model, active_adapters(module.auto_model), file) if chosen else {}
    else:
        if kind == "StaticEmbedding":
            config.update(embedding_config(module))
        if kind == "Dense":
            # A live module may hold an activation with other than its class's default options.
            activation = _raw_activation(module.activation_function)
            config["activation_repr"], config["activation_default_repr"] = activation.shown, activation.default
        if kind == "MultiVectorMask":  # words that are no token of this tokenizer are none of them
            ids = module._skiplist_ids
            config["skiplist_ids"] = [] if ids is None else ids.tolist()
        if kind == "SpladePooling":
            config.pop("embedding_dimension", None)  # which a model knows only once it has answered
        state = dict(module.state_dict())
        file = f"{folder}/{index}_{kind}/config.json"
    require_finite(state, folder)
    tensors = {name: np.asarray(value.detach().cpu().numpy()) for name, value in state.items()}
    return RawModule(kind, file, config, tensors, adapter)


def _rounded(encoder: Any) -> dict[str, float]:
    """What the dtype of the load left of Gemma's root of the hidden size: no later change of dtype brings it back."""
    found = [float(value) for name, value in encoder.named_buffers() if name.endswith(".embed_scale")]
    return {"embed_scale": found[0]} if found else {}


def _raw_activation(module: Any) -> RawActivation:
    kind = type(module)
    try:
        default = repr(kind())
    except TypeError:  # a class that needs arguments has no default
        default = None
    return RawActivation(f"{kind.__module__}.{kind.__qualname__}", repr(module), default)


def _takes_token_types(first: Any) -> bool:
    if (encoder := getattr(first, "auto_model", None)) is None:
        return False
    named, types = inspect.signature(encoder.forward).parameters, getattr(encoder.config, "type_vocab_size", 0)
    return "token_type_ids" in first.tokenizer.model_input_names and "token_type_ids" in named and bool(types)


def _digest(modules: tuple[RawModule, ...], tokenizer: TokenizerSource, *rest: object) -> str:
    """sha256 over all that determines the model's answers, the same for a folder and for the model loaded from it."""
    sha = hashlib.sha256()
    for module in modules:
        config = {key: value for key, value in module.config.items() if key not in _VOLATILE}
        sha.update(f"{module.type}\n{json.dumps(config, sort_keys=True, default=str)}\n".encode())
        for name in sorted(module.tensors):
            tensor = module.tensors[name]
            sha.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
            sha.update(np.ascontiguousarray(tensor).data)
    identity = replace(tokenizer, file="")  # where it was found does not matter
    sha.update(json.dumps([asdict(identity), *rest], ensure_ascii=False).encode())
    return "sha256:" + sha.hexdigest()
