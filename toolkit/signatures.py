"""Every signature of an exported model: names, dtypes, shapes. The single source for export, client, check and docs.

A dimension is ``"batch"`` or ``"length"`` (free), ``"dim"`` (the embedding's size), ``"hidden"`` (the encoder's
hidden size). dtypes are numpy's names; ``"string"`` is TensorFlow's DT_STRING (UTF-8 bytes).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEFAULT_SIGNATURE", "GUARD_NODE", "SIGNATURES", "Signature", "Tensor"]

GUARD_NODE = "input_guard"
"""What the names of the ops begin with that check a signature's inputs (see `toolkit.graph.guard`)."""


@dataclass(frozen=True)
class Tensor:
    """One named input or output: ``name``, ``dtype`` and symbolic ``shape``."""

    name: str
    dtype: str
    shape: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{', '.join(self.shape)}]"


@dataclass(frozen=True)
class Signature:
    """One signature of the SavedModel, with its inputs and outputs in documented order."""

    name: str
    doc: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


_TEXT = Tensor("text", "string", ("batch",))
_EMBEDDING = Tensor("embedding", "float32", ("batch", "dim"))
_TOKENS = (
    Tensor("input_ids", "int32", ("batch", "length")),
    Tensor("attention_mask", "int32", ("batch", "length")),
    Tensor("token_type_ids", "int32", ("batch", "length")),
)

DEFAULT_SIGNATURE = "serving_default"

SIGNATURES: tuple[Signature, ...] = (
    Signature(DEFAULT_SIGNATURE, "raw text to its embedding", (_TEXT,), (_EMBEDDING,)),
    Signature(
        "detailed",
        "the embedding, the number of tokens before truncation (special tokens included) and whether text was cut",
        (_TEXT,),
        (_EMBEDDING, Tensor("num_tokens", "int32", ("batch",)), Tensor("truncated", "bool", ("batch",))),
    ),
    Signature("tokenize", "raw text to padded token ids", (_TEXT,), _TOKENS),
    Signature("embed_tokens", "token ids to the embedding", _TOKENS, (_EMBEDDING,)),
    Signature(
        "token_embeddings",
        "the encoder's last hidden state, padded",
        (_TEXT,),
        (
            Tensor("token_embeddings", "float32", ("batch", "length", "hidden")),
            Tensor("attention_mask", "int32", ("batch", "length")),
        ),
    ),
)
