"""StaticEmbedding in a checkpoint: its tokenizer, which no class of transformers stands before, and its table.

A file of sentence-transformers holds the table as it is computed with. One of model2vec may hold it in parts: fewer
embeddings than tokens, a mapping from tokens to them, and weights of tokens (sentence-transformers 6.2,
``StaticEmbedding._fold_model2vec_weights``; model2vec's ``persistence.py``).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from toolkit.errors import SourceError, UnsupportedError
from toolkit.source.stored import StoredModule, read_tensors
from toolkit.tokenizer import TokenizerSource

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

__all__ = ["embedding_config", "require_stored_table", "static_tokenizer"]

_TABLE, _EMBEDDINGS, _MAPPING, _WEIGHTS = "embedding.weight", "embeddings", "mapping", "weights"
_ONE_TEXT = ("longest_first", "only_first")


def static_tokenizer(tokenizer: Tokenizer, file: str) -> TokenizerSource:
    """The tokenizer as ``StaticEmbedding.preprocess`` uses it: no special tokens are added, and texts are cut only
    where ``file`` itself says so.

    Raises ``UnsupportedError`` for a truncation that one text does not have.
    """
    cut: dict[str, Any] = tokenizer.truncation or {}
    if (strategy := cut.get("strategy", _ONE_TEXT[0])) not in _ONE_TEXT:
        raise UnsupportedError(file, "truncation.strategy", strategy, _ONE_TEXT)
    if tokenizer.encode_special_tokens:
        raise UnsupportedError(file, "encode_special_tokens", True, "false")
    raw = json.loads(tokenizer.to_str())
    raw["padding"] = raw["truncation"] = raw["post_processor"] = None
    return TokenizerSource(
        json=json.dumps(raw, ensure_ascii=False),
        file=file,
        max_length=cut.get("max_length"),
        truncation_side=cut.get("direction", "right"),
    )


def embedding_config(module: Any) -> dict[str, Any]:
    """What a live module's ``EmbeddingBag`` computes: the fields that ``StaticSpec`` reads."""
    return {name: getattr(module.embedding, name) for name in ("mode", "max_norm", "padding_idx")}


def require_stored_table(table: torch.Tensor, files: StoredModule) -> None:
    """Raise ``SourceError``, naming the file, unless a loaded ``table`` ``[tokens, numbers]`` is what is stored."""
    import torch

    (file,) = files.files
    stored = dict(read_tensors(file))
    embeddings = stored.get(_TABLE, stored.get(_EMBEDDINGS))
    if embeddings is None:
        raise SourceError(f"{file}: has neither a tensor {_TABLE!r} nor {_EMBEDDINGS!r}")
    if _TABLE not in stored:
        if (mapping := stored.get(_MAPPING)) is not None:
            embeddings = embeddings[mapping.long()]
        if (weights := stored.get(_WEIGHTS)) is not None:
            wide = torch.promote_types(embeddings.dtype, torch.float32)
            embeddings = (embeddings.to(wide) * weights[:, None]).to(wide)
    equal = embeddings.shape == table.shape and torch.allclose(embeddings, table, rtol=0, atol=0, equal_nan=True)
    if embeddings.dtype != table.dtype or not equal:
        raise SourceError(f"{file}: the loaded embeddings are others than those that it holds")
