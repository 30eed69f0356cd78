"""What kind of checkpoint a folder holds, looked at before anything in it is loaded or imported.

Module types and activations come from JSON files, and sentence-transformers would replace some unknown ones by defaults
with no more than a log line: what is not known here is refused by file, field and value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.errors import MissingExtraError, SourceError, UnsupportedError
from toolkit.source.files import read_json
from toolkit.source.settings import POOLING_MODES
from toolkit.source.tasks import TASKS, Task, module_type, task_of_class

__all__ = ["Folder", "ModuleFolder", "inspect_folder", "require_unquantized"]

# Fields of each module's own file, those of earlier releases too. sentence-transformers drops a field that it does not
# know, of a Dense for example, or fails without naming the file.
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "Transformer": (
        *("max_seq_length", "do_lower_case", "transformer_task", "modality_config", "module_output_name"),
        *("processing_kwargs", "unpad_inputs", "query_length", "document_length", "query_expansion", "cache_dir"),
        *("tokenizer_name_or_path", "model_kwargs", "processor_kwargs", "config_kwargs"),
        *("model_args", "tokenizer_args", "config_args"),
    ),
    "Pooling": (
        *("embedding_dimension", "word_embedding_dimension", "pooling_mode", "include_prompt"),
        *("pooling_mode_cls_token", "pooling_mode_max_tokens", "pooling_mode_mean_tokens"),
        *("pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens", "pooling_mode_lasttoken"),
    ),
    "Dense": (
        *("in_features", "out_features", "bias", "activation_function", "use_residual"),
        *("module_input_name", "module_output_name"),
    ),
    "LayerNorm": ("dimension",),
    "Normalize": ("module_input_name", "module_output_name"),
    "Dropout": ("dropout",),
    "MultiVectorMask": ("skiplist_words", "skiplist_tasks", "keep_only_token_ids"),
    "HierarchicalTokenPooling": ("pool_factor", "num_protected_tokens", "normalize_embeddings", "tasks"),
    "SpladePooling": ("pooling_strategy", "activation_function", "embedding_dimension", "word_embedding_dimension"),
    "SparseStaticEmbedding": ("frozen",),
    "LogitScore": ("true_token_id", "false_token_id", "module_input_name"),
}
_PYLATE = "pylate.models.Dense.Dense"  # in whose place sentence-transformers takes its own Dense
_NEED_A_FILE = ("Pooling", "Dense", "LayerNorm", "SparseStaticEmbedding", "LogitScore")

# Of a Transformer module, beside config.json; the first one that is there counts.
_TRANSFORMER_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_MODEL_FILE = "config_sentence_transformers.json"
# Model types that came with code of their own before transformers had them, of which it has all that they compute.
_TAKEN_OVER = ("eurobert", "nomic_bert")
# In the names of other checkpoints' own code: transformers' model type of the same layers, and a checkpoint of it.
_CONVERTED = {
    "new-impl": ("gte", "alibaba-nlp-community/gte-multilingual-base"),
    "alibaba_nlp_gte": ("gte", "alibaba-nlp-community/gte-multilingual-base"),
    "xlm-roberta-flash": ("jina_embeddings_v3", "jinaai/jina-embeddings-v3-hf"),
}
# Classes that cut texts by a function in Python, which no tokenizer.json has, by the model type for which transformers
# takes them where no file names a class.
_CUT_IN_PYTHON = {"roformer": "RoFormerTokenizer"}
# Model types whose tokens look at those before them alone, unless a configuration says otherwise.
_DECODERS = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True)
class ModuleFolder:
    """One module of a folder: the name of its class, and the folder of its configuration and weights."""

    type: str
    path: Path

    @property
    def has_weights(self) -> bool:
        """Whether a module of this type comes with weights."""
        return self.type in ("Transformer", "StaticEmbedding", "SparseStaticEmbedding", "Dense", "LayerNorm")


@dataclass(frozen=True)
class Folder:
    """A folder that may be loaded. A ``plain`` one is an encoder as transformers saves it, without ``modules.json``."""

    path: Path
    task: Task
    modules: tuple[ModuleFolder, ...]
    plain: bool

    @property
    def tokenizer_file(self) -> Path | None:
        """The ``tokenizer.json`` that transformers makes a tokenizer of, if there is one. A StaticEmbedding takes its
        own as it is."""
        files = [module.path / "tokenizer.json" for module in self.modules if module.type == "Transformer"]
        return files[0] if files and files[0].is_file() else None


def inspect_folder(path: Path, trust_remote_code: bool, asked: Task | None = None) -> Folder:
    """What ``path`` holds; refuses what sentence-transformers would load wrongly, late or with someone's code.

    ``asked`` decides on the task where the folder does not. Raises ``SourceError`` for what is missing or damaged,
    ``UnsupportedError`` naming file, field and value.
    """
    declared = _declared_task(path / _MODEL_FILE)
    for found in (path / _MODEL_FILE, path / "config.json"):
        _require_trusted_scores(found, trust_remote_code)
    file = path / "modules.json"
    if not file.exists():
        task = _inspect_plain(path, asked)
        # Stanford's ColBERT has the projection of its tokens beside the encoder's weights.
        types = ("Transformer", "Dense") if task.name == "multi_vector" else ("Transformer",)
        return Folder(path, task, tuple(ModuleFolder(name, path) for name in types), plain=True)
    if asked is not None and asked != declared:  # sentence-transformers would leave the folder's modules out
        supported = f"{asked.model_class}, where the task is {asked.name}"
        raise UnsupportedError(str(path / _MODEL_FILE), "model_type", declared.model_class, supported)
    items = read_json(file)
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        raise SourceError(f"{file}: expected a list of modules, like sentence-transformers writes")
    modules = [_inspect_module(path, file, item, declared, trust_remote_code) for item in items]
    routed = [inner for module in modules for inner in _inspect_routes(module, declared, trust_remote_code)]
    return Folder(path, declared, tuple(routed), plain=False)


def _declared_task(file: Path) -> Task:
    """The task of the class that saved the folder: another class would make a model of its own of it."""
    kind = _object(file).get("model_type", "SentenceTransformer") if file.exists() else "SentenceTransformer"
    if (task := task_of_class(str(kind))) is None:
        raise UnsupportedError(str(file), "model_type", kind, [task.model_class for task in TASKS.values()])
    return task


def _require_trusted_scores(file: Path, trust_remote_code: bool) -> None:
    """Refuse an activation of a CrossEncoder's scores that sentence-transformers would replace by its default.

    The field has been in several places.
    """
    config = _object(file) if file.exists() else {}
    inner = config.get("sentence_transformers")
    found = {
        "activation_fn": config.get("activation_fn"),
        "sentence_transformers.activation_fn": inner.get("activation_fn") if isinstance(inner, dict) else None,
        "sbert_ce_default_activation_function": config.get("sbert_ce_default_activation_function"),
    }
    for field, name in found.items():
        if name is not None and not str(name).startswith("torch.") and not trust_remote_code:
            raise UnsupportedError(str(file), field, name, "classes of torch")


def _inspect_plain(path: Path, asked: Task | None) -> Task:
    """The task of a folder without ``modules.json``; whatever more it holds than that task takes is refused."""
    missing = f"{path / 'modules.json'}: is missing"
    for trace in (_MODEL_FILE, *_TRANSFORMER_FILES, "1_Pooling"):
        if (path / trace).exists():
            raise SourceError(
                f"{missing}, but {trace} is there: this is not a SentenceTransformer folder as it was saved"
            )
    if _is_adapter(path):
        return asked or TASKS["embed"]
    file = path / "config.json"
    if not file.exists():
        raise SourceError(
            f"{missing}, config.json too; this is not a SentenceTransformer folder, nor a plain encoder's"
        )
    # One that does not say what it holds is taken for an encoder alone.
    architectures = [str(name) for name in _object(file).get("architectures") or ["AutoModel"]]
    possible = [asked] if asked is not None else [task for task in TASKS.values() if task.architectures is not None]

    def taken(task: Task, name: str) -> bool:
        return task.takes(name, asked=asked is not None)

    fitting = [task for task in possible if all(taken(task, name) for name in architectures)]
    if (path / "artifact.metadata").exists() and not any(task.name == "multi_vector" for task in fitting):
        supported = "HF_ColBERT, beside artifact.metadata"
        raise UnsupportedError(str(file), "architectures", architectures[0], supported)
    if not fitting:
        strange = next(name for name in architectures if not taken(possible[0], name))
        supported = f"{', '.join(task.plain for task in possible)}, where there is no modules.json"
        raise UnsupportedError(str(file), "architectures", strange, supported)
    _inspect_encoder(file)
    _require_fast_tokenizer(path)
    return fitting[0]


def _inspect_module(
    folder: Path, file: Path, item: dict[str, Any], task: Task, trust_remote_code: bool
) -> ModuleFolder:
    kind = str(item.get("type", ""))
    own = kind.rsplit(".", 1)[-1]
    name = module_type(own)
    known = (kind.startswith("sentence_transformers.") or kind == _PYLATE) and name in task.module_types
    if not known and not trust_remote_code:
        raise UnsupportedError(str(file), "type", kind, task.supported_in_place_of(name))
    module = ModuleFolder(name, folder / str(item.get("path", "")))
    if not module.path.resolve().is_relative_to(folder.resolve()):
        raise SourceError(f"{file}: path {item.get('path')!r} leads out of the folder")
    if not module.path.is_dir() and name in ("Transformer", "StaticEmbedding", *_NEED_A_FILE):
        raise SourceError(f"{module.path}: is missing, but modules.json names it")
    if name == "Transformer":
        _inspect_transformer(module.path, task, "feature-extraction" if own == name else "fill-mask")
    elif known and name not in ("Router", "StaticEmbedding"):  # beside the latter may stand model2vec's own fields
        _inspect_fields(module, trust_remote_code)
    return module


def _inspect_routes(module: ModuleFolder, task: Task, trust_remote_code: bool) -> list[ModuleFolder]:
    """The modules inside of a Router, each once, in the order of its routes; of another module itself."""
    if module.type != "Router":
        return [module]
    file = module.path / "router_config.json"
    config = _object(file if file.exists() else file.with_name("config.json"))
    types, structure = config.get("types"), config.get("structure")
    if not isinstance(types, dict) or not isinstance(structure, dict):
        raise SourceError(f"{file}: expected types and structure, like sentence-transformers writes")
    names = list(dict.fromkeys(name for route in structure.values() for name in route))
    if unknown := [name for name in names if name not in types]:
        raise SourceError(f"{file}: types lacks {unknown[0]!r}, which structure names")
    items = [{"type": types[name], "path": name} for name in names]
    return [_inspect_module(module.path, file, item, task, trust_remote_code) for item in items]


def _inspect_transformer(path: Path, task: Task, default: str) -> None:
    if not _is_adapter(path):
        _inspect_encoder(path / "config.json")
    for file in (path / name for name in _TRANSFORMER_FILES):
        if file.exists() and (config := _object(file)):
            _require_fields(file, config, "Transformer")
            if (does := config.get("transformer_task", default)) not in task.transformer_tasks:
                raise UnsupportedError(str(file), "transformer_task", does, task.transformer_tasks)
            if (tokenizer := config.get("tokenizer_name_or_path")) is not None:
                raise UnsupportedError(str(file), "tokenizer_name_or_path", tokenizer, "the folder's own tokenizer")
            break
    _require_fast_tokenizer(path)


def _is_adapter(path: Path) -> bool:
    """Whether a folder has a PEFT adapter in the place of a model, whose configuration is its base's."""
    return (path / "adapter_config.json").exists() and not (path / "config.json").exists()


def _inspect_encoder(file: Path) -> None:
    """Refuse an encoder of the checkpoint's own class, in whose place transformers takes its own; quantized weights.

    Not so where transformers' class is the checkpoints' own one, taken over under its name.
    """
    config = _object(file)
    own = {} if config.get("model_type") in _TAKEN_OVER else config.get("auto_map") or {}
    if isinstance(own, dict) and (used := {key: own[key] for key in ("AutoConfig", "AutoModel") if key in own}):
        raise UnsupportedError(str(file), "auto_map", used, _instead_of(used, config.get("model_type")))
    require_unquantized(config, file)


def _instead_of(own: Mapping[str, Any], kind: object) -> str:
    """What serves in the place of code that a checkpoint brings along."""
    for code, (native, example) in _CONVERTED.items():
        if any(code in str(name) for name in own.values()):
            return f"such models converted to transformers' own {native!r}, like {example}"
    looks = ", with is_causal false where its tokens look both ways" if kind in _DECODERS else ""
    return (
        f"none: the checkpoint's own class need not compute what transformers' own {kind!r} does, with or without "
        f"--trust-remote-code; where it does, that serves it by a config.json without auto_map{looks}"
    )


def require_unquantized(config: Mapping[str, Any], file: Path) -> None:
    """Refuse an encoder whose weights are not floats of their own. ``config`` is ``file``'s content."""
    if (quantized := config.get("quantization_config")) is not None:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
        raise UnsupportedError(str(file), "quantization_config", method, "float32, float16 and bfloat16 weights")


def _require_fast_tokenizer(path: Path) -> None:
    """Refuse a tokenizer that only exists in Python, such as MeCab's or PhoBERT's, or that has a step in Python, as
    RoFormer's, before it asks for more packages."""
    try:
        from transformers import PreTrainedTokenizerFast
        from transformers.models.auto.tokenization_auto import tokenizer_class_from_name
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "transformers", "convert") from error
    files = {file: _object(file) for name in ("tokenizer_config.json", "config.json") if (file := path / name).exists()}
    named = [(file, name) for file, config in files.items() if (name := config.get("tokenizer_class")) is not None]
    usual = _CUT_IN_PYTHON.get(str(files.get(path / "config.json", {}).get("model_type")))
    file, name = [*named, (path / "config.json", usual)][0]
    kind = tokenizer_class_from_name(str(name))
    # the base class of those in Python stands for any: transformers takes tokenizer.json then
    if (
        isinstance(kind, type)
        and kind.__name__ != "PythonBackend"
        and (not issubclass(kind, PreTrainedTokenizerFast) or kind.__name__ in _CUT_IN_PYTHON.values())
    ):
        raise UnsupportedError(str(file), "tokenizer_class", name, "classes with a fast tokenizer (tokenizer.json)")


def _inspect_fields(module: ModuleFolder, trust_remote_code: bool) -> None:
    file = module.path / "config.json"
    if not file.exists() and module.type not in _NEED_A_FILE:
        return
    config = _object(file)
    _require_fields(file, config, module.type)
    if module.type == "Pooling":
        modes = config.get("pooling_mode", "mean")
        for mode in [modes] if isinstance(modes, str) else modes:
            if mode not in POOLING_MODES:
                raise UnsupportedError(str(file), "pooling_mode", mode, POOLING_MODES)
    if module.type == "Dense":
        _require_torch_activation(file, config, trust_remote_code)


def _require_fields(file: Path, config: Mapping[str, Any], kind: str) -> None:
    for field, value in config.items():
        if field not in _FIELDS[kind]:
            raise UnsupportedError(str(file), field, value, f"{', '.join(_FIELDS[kind])}; {field} is not known")


def _require_torch_activation(file: Path, config: Mapping[str, Any], trust_remote_code: bool) -> None:
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    if not activation.startswith("torch.nn.modules.") and not trust_remote_code:
        raise UnsupportedError(str(file), "activation_function", activation, "classes of torch.nn.modules")


def _object(file: Path) -> dict[str, Any]:
    config = read_json(file)
    if not isinstance(config, dict):
        raise SourceError(f"{file}: expected a JSON object")
    return config
