"""Raw checkpoint -> frozen ``ModelSpec``. Every refusal of a model's architecture lives here.

Nothing after this stage opens a configuration file. Field names of the encoder follow transformers' ``BertConfig``;
those of the heads follow sentence-transformers' modules.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.errors import SourceError, UnsupportedError
from toolkit.source.checkpoint import Checkpoint, RawModule
from toolkit.tokenizer import TokenizerSource, TokenizerSpec, read_tokenizer

__all__ = [
    "POOLING_MODES",
    "DenseSpec",
    "EncoderSpec",
    "HeadSpec",
    "LayerNormSpec",
    "ModelSpec",
    "NormalizeSpec",
    "PoolingSpec",
    "read_spec",
]

Array = npt.NDArray[np.float32]

POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
ENCODER_FAMILIES = ("bert",)

# transformers' hidden_act -> name of our activation (transformers/activations.py, ACT2FN)
HIDDEN_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "mish": "mish",
}

# torch class of a Dense module's activation -> name of our activation, with that class's default options
DENSE_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": "linear",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.ReLU6": "relu6",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.activation.SiLU": "silu",
    "torch.nn.modules.activation.Mish": "mish",
    "torch.nn.modules.activation.ELU": "elu",
    "torch.nn.modules.activation.SELU": "selu",
    "torch.nn.modules.activation.LeakyReLU": "leaky_relu",
    "torch.nn.modules.activation.Softplus": "softplus",
    "torch.nn.modules.activation.Softsign": "softsign",
    "torch.nn.modules.activation.Hardtanh": "hardtanh",
}


@dataclass(frozen=True)
class EncoderSpec:
    """A BERT encoder (Devlin et al. 2018) as transformers' ``BertModel`` computes it, without its pooler.

    The dropout rates matter only where the model is trained further. ``tensors`` are the checkpoint's, by name.
    """

    family: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_positions: int
    type_vocab_size: int
    activation: str
    layer_norm_eps: float
    hidden_dropout: float
    attention_dropout: float
    tensors: Mapping[str, Array] = field(repr=False, default_factory=dict)


@dataclass(frozen=True)
class PoolingSpec:
    """Token embeddings to one vector; several modes are concatenated in this order."""

    modes: tuple[str, ...]
    dim: int

    def __str__(self) -> str:
        return f"pooling     {' and '.join(self.modes)}"


@dataclass(frozen=True)
class DenseSpec:
    """``activation(x @ weight + bias)``, plus a residual (projected where the sizes differ).

    ``weight`` is ``[in, out]``, ``bias`` ``[out]`` or ``None``; ``residual_weight`` is ``[in, out]`` or ``None``.
    """

    in_features: int
    out_features: int
    activation: str
    residual: bool
    weight: Array = field(repr=False)
    bias: Array | None = field(repr=False)
    residual_weight: Array | None = field(repr=False, default=None)

    def __str__(self) -> str:
        residual = ", residual" if self.residual else ""
        return f"dense       {self.in_features} to {self.out_features}, {self.activation}{residual}"


@dataclass(frozen=True)
class LayerNormSpec:
    """LayerNorm over the embedding: ``weight`` and ``bias`` are ``[dim]``; torch's default epsilon is 1e-5."""

    dim: int
    epsilon: float
    weight: Array = field(repr=False)
    bias: Array = field(repr=False)

    def __str__(self) -> str:
        return f"layer norm  over {self.dim}"


@dataclass(frozen=True)
class NormalizeSpec:
    """Division by the Euclidean norm, which is taken as at least 1e-12 (``torch.nn.functional.normalize``)."""

    def __str__(self) -> str:
        return "normalize   to length 1"


HeadSpec = PoolingSpec | DenseSpec | LayerNormSpec | NormalizeSpec


@dataclass(frozen=True)
class ModelSpec:
    """A whole model: what is put before each text, tokenizer, encoder, the modules after it, the embedding's size."""

    prompt: str
    tokenizer: TokenizerSpec
    encoder: EncoderSpec
    heads: tuple[HeadSpec, ...]
    truncate_dim: int | None
    dim: int
    max_length: int

    def __str__(self) -> str:
        e, tokenizer = self.encoder, type(self.tokenizer.model).__name__
        lines = [
            f"tokenizer   {tokenizer.removesuffix('Model')}, at most {self.max_length} tokens",
            f"encoder     {e.family}, {e.num_layers} layers, hidden size {e.hidden_size}, {e.num_heads} heads",
            *map(str, self.heads),
            f"embedding   float32 [{self.dim}]",
        ]
        if self.prompt:
            lines.insert(0, f"prompt      {self.prompt!r}")
        return "\n".join(lines)


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """Turn a checkpoint into a ``ModelSpec``.

    Raises ``UnsupportedError`` naming file, field, value and what is supported; ``SourceError`` for tensors that are
    missing, left over or of another shape than the configuration says.
    """
    first, *rest = checkpoint.modules
    if first.type != "Transformer":
        raise UnsupportedError(first.file, "module 0", first.type, "Transformer")
    encoder = _read_encoder(first)
    heads: list[HeadSpec] = []
    dim: int | None = None
    for module in rest:
        if module.type == "Dropout":  # does nothing at inference
            continue
        if module.type not in _HEADS:
            raise UnsupportedError(module.file, "module", module.type, _HEADS)
        if dim is None and module.type != "Pooling":
            raise UnsupportedError(module.file, "module after Transformer", module.type, "Pooling")
        if dim is not None and module.type == "Pooling":
            raise UnsupportedError(module.file, "module after Pooling", module.type, "Dense, LayerNorm, Normalize")
        head, dim = _HEADS[module.type](module, dim or encoder.hidden_size)
        heads.append(head)
    if dim is None:
        raise SourceError(f"{first.file}: the model has no Pooling module, so no sentence embedding")
    if checkpoint.prompt and any(m.type == "Pooling" and not m.config.get("include_prompt", True) for m in rest):
        raise UnsupportedError(first.file, "include_prompt", False, "true, where a default prompt is set")
    limit = checkpoint.tokenizer.max_length
    if limit is not None and limit > encoder.max_positions:
        raise UnsupportedError(
            first.file,
            "max_seq_length",
            limit,
            f"at most max_position_embeddings, {encoder.max_positions}",
        )
    source = replace(checkpoint.tokenizer, max_length=limit or encoder.max_positions)
    _require_room(source, encoder.vocab_size)
    cut = checkpoint.truncate_dim
    if cut is not None and cut < 1:
        raise UnsupportedError(first.file, "truncate_dim", cut, "positive numbers")
    return ModelSpec(
        prompt=checkpoint.prompt,
        tokenizer=read_tokenizer(source),
        encoder=encoder,
        heads=tuple(heads),
        truncate_dim=cut,
        dim=min(dim, cut) if cut else dim,
        max_length=source.max_length or encoder.max_positions,
    )


def _require_room(source: TokenizerSource, vocab_size: int) -> None:
    """Every id the tokenizer can yield needs an embedding; tokens added without resizing the model have none."""
    tokenizer = json.loads(source.json)
    vocabulary = tokenizer.get("model", {}).get("vocab", {})
    # Unigram has a list of pieces and scores, in the order of the ids.
    pieces = vocabulary if isinstance(vocabulary, dict) else {piece[0]: index for index, piece in enumerate(vocabulary)}
    ids: dict[str, int] = dict(pieces)
    ids |= {token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}
    beyond = sorted((index, token) for token, index in ids.items() if index >= vocab_size)
    if beyond:
        index, token = beyond[0]
        raise SourceError(f"{source.file}: token {token!r} has id {index}, but the encoder has {vocab_size} embeddings")


def _require(module: RawModule, key: str, supported: Sequence[object], default: object = None) -> None:
    value = module.config.get(key, default)
    if value not in supported:
        raise UnsupportedError(module.file, key, value, supported)


def _positive(module: RawModule, key: str) -> int:
    value = module.config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise SourceError(f"{module.file}: {key} is {value!r}; expected a positive integer")
    return value


def _rate(module: RawModule, key: str) -> float:
    value = float(module.config.get(key) or 0.0)
    if not 0.0 <= value < 1.0:
        raise SourceError(f"{module.file}: {key} is {value}; expected a rate of at least 0 and below 1")
    return value


def _read_encoder(module: RawModule) -> EncoderSpec:
    _require(module, "model_type", ENCODER_FAMILIES)
    _require(module, "position_embedding_type", ("absolute",), "absolute")
    _require(module, "is_decoder", (False,), False)
    _require(module, "add_cross_attention", (False,), False)
    _require(module, "transformer_task", ("feature-extraction",), "feature-extraction")
    _require(module, "module_output_name", ("token_embeddings",), "token_embeddings")
    _require(module, "query_expansion", (None,))
    if text_options := module.config.get("processing_kwargs"):
        raise UnsupportedError(module.file, "processing_kwargs", text_options, "none")
    activation = str(module.config.get("hidden_act"))
    if activation not in HIDDEN_ACTIVATIONS:
        raise UnsupportedError(module.file, "hidden_act", activation, HIDDEN_ACTIVATIONS)
    hidden, heads = _positive(module, "hidden_size"), _positive(module, "num_attention_heads")
    if hidden % heads:
        raise SourceError(f"{module.file}: hidden_size {hidden} is no multiple of num_attention_heads {heads}")
    epsilon = float(module.config.get("layer_norm_eps", 1e-12))
    if not 0.0 < epsilon < 1.0:
        raise SourceError(f"{module.file}: layer_norm_eps is {epsilon}; expected a small positive number")
    return EncoderSpec(
        family=str(module.config["model_type"]),
        vocab_size=_positive(module, "vocab_size"),
        hidden_size=hidden,
        num_layers=_positive(module, "num_hidden_layers"),
        num_heads=heads,
        intermediate_size=_positive(module, "intermediate_size"),
        max_positions=_positive(module, "max_position_embeddings"),
        type_vocab_size=_positive(module, "type_vocab_size"),
        activation=HIDDEN_ACTIVATIONS[activation],
        layer_norm_eps=epsilon,
        hidden_dropout=_rate(module, "hidden_dropout_prob"),
        attention_dropout=_rate(module, "attention_probs_dropout_prob"),
        tensors=module.tensors,
    )


def _require_sentence_embedding(module: RawModule) -> None:
    _require(module, "module_input_name", ("sentence_embedding",), "sentence_embedding")
    _require(module, "module_output_name", ("sentence_embedding", None), "sentence_embedding")


def _read_pooling(module: RawModule, dim: int) -> tuple[HeadSpec, int]:
    raw = module.config.get("pooling_mode", "mean")
    modes = (raw,) if isinstance(raw, str) else tuple(raw)
    if unknown := [mode for mode in modes if mode not in POOLING_MODES]:
        raise UnsupportedError(module.file, "pooling_mode", unknown[0], POOLING_MODES)
    if (size := _positive(module, "embedding_dimension")) != dim:
        raise SourceError(f"{module.file}: embedding_dimension is {size}, but the encoder's hidden size is {dim}")
    return PoolingSpec(modes, dim * len(modes)), dim * len(modes)


def _tensor(module: RawModule, name: str, shape: tuple[int, ...]) -> Array:
    if name not in module.tensors:
        raise SourceError(f"{module.file}: the weights lack {name!r}")
    tensor = module.tensors[name]
    if tensor.shape != shape:
        raise SourceError(f"{module.file}: {name} has shape {tensor.shape}, the configuration says {shape}")
    return np.ascontiguousarray(tensor, np.float32)


def _no_leftovers(module: RawModule, *used: str) -> None:
    if extra := sorted(set(module.tensors) - set(used)):
        raise SourceError(f"{module.file}: tensor {extra[0]!r} is not part of a {module.type} module")


def _read_dense(module: RawModule, dim: int) -> tuple[HeadSpec, int]:
    _require_sentence_embedding(module)
    size_in, size_out = _positive(module, "in_features"), _positive(module, "out_features")
    if size_in != dim:
        raise SourceError(f"{module.file}: in_features is {size_in}, but the module before yields {dim}")
    activation = str(module.config.get("activation_function"))
    if activation not in DENSE_ACTIVATIONS:
        raise UnsupportedError(module.file, "activation_function", activation, DENSE_ACTIVATIONS)
    shown, default = module.config.get("activation_repr"), module.config.get("activation_default_repr")
    if shown != default:
        raise UnsupportedError(module.file, "activation_function", shown, f"{default}, the class's default options")
    has_bias, residual = bool(module.config.get("bias", True)), bool(module.config.get("use_residual", False))
    projected = residual and size_in != size_out
    used = ["linear.weight", *(["linear.bias"] if has_bias else []), *(["residual.weight"] if projected else [])]
    _no_leftovers(module, *used)
    spec = DenseSpec(
        in_features=size_in,
        out_features=size_out,
        activation=DENSE_ACTIVATIONS[activation],
        residual=residual,
        weight=np.ascontiguousarray(_tensor(module, "linear.weight", (size_out, size_in)).T),
        bias=_tensor(module, "linear.bias", (size_out,)) if has_bias else None,
        residual_weight=np.ascontiguousarray(_tensor(module, "residual.weight", (size_out, size_in)).T)
        if projected
        else None,
    )
    return spec, size_out


def _read_layer_norm(module: RawModule, dim: int) -> tuple[HeadSpec, int]:
    if (size := _positive(module, "dimension")) != dim:
        raise SourceError(f"{module.file}: dimension is {size}, but the module before yields {dim}")
    _no_leftovers(module, "norm.weight", "norm.bias")
    weight, bias = _tensor(module, "norm.weight", (dim,)), _tensor(module, "norm.bias", (dim,))
    return LayerNormSpec(dim, 1e-5, weight, bias), dim


def _read_normalize(module: RawModule, dim: int) -> tuple[HeadSpec, int]:
    _require_sentence_embedding(module)
    return NormalizeSpec(), dim


_HEADS: Mapping[str, Any] = {
    "Pooling": _read_pooling,
    "Dense": _read_dense,
    "LayerNorm": _read_layer_norm,
    "Normalize": _read_normalize,
}
