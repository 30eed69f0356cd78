"""``sparse``: a SparseEncoder, from text to a number for each word of the vocabulary, most of which are 0."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from toolkit.corpus.check import SHORT
from toolkit.encoder.batching_options import Batching
from toolkit.encoder.families import read_encoder
from toolkit.encoder.family import EncoderSpec
from toolkit.encoder.static import StaticSpec
from toolkit.errors import InputError, UnsupportedError
from toolkit.graph.spec import (
    Request,
    TaskSpec,
    chosen_names,
    max_length,
    require_output,
    require_room,
    warmup_batches,
)
from toolkit.heads.masked_lm import read_masked_lm, without_head
from toolkit.heads.splade import Splade, read_splade
from toolkit.signatures import DEFAULT_SIGNATURE, Prompt, Signature, Views, prompt_texts
from toolkit.source.checkpoint import Checkpoint
from toolkit.source.loaded import require_independent_rows
from toolkit.sparse_signatures import TOKENIZE, SparseSignature, sparse_signatures
from toolkit.tokenizer import TokenizerSource, read_tokenizer, reference_tokenizer

__all__ = ["SparseSpec", "StaticWeights"]

Array = npt.NDArray[np.float32]

_MOST_WORDS = 2**24
"""Indices below it are whole numbers in float32, in which they travel with values."""

_LAYOUT = "Transformer and SpladePooling, or a SparseStaticEmbedding, alone or as the routes of a Router, one of each"


@dataclass(frozen=True)
class StaticWeights:
    """A way without an encoder, as sentence-transformers' ``SparseStaticEmbedding`` (6.2): a text's vector has the
    ``weights`` ``[vocab]`` of the tokens that occur in its first ``max_length`` (``None``: in all), no special tokens
    around them."""

    weights: Array = field(repr=False)
    max_length: int | None

    def __str__(self) -> str:
        limit = "" if self.max_length is None else f", of at most {self.max_length}"
        return f"static      a weight for each token that occurs{limit}"


@dataclass(frozen=True, kw_only=True)
class SparseSpec(TaskSpec):
    """Its signatures (the default one first), and its ways from tokens to a vector, one or both. At most ``most``
    numbers of it are active. Without ``splade`` the encoder is the table of ``static``, a number for each token."""

    task: ClassVar[str] = "sparse"

    texts: tuple[SparseSignature, ...]
    splade: Splade | None
    static: StaticWeights | None
    most: int | None

    @classmethod
    def read(cls, checkpoint: Checkpoint, views: Views = Views()) -> Self:
        if views.dims or views.quantized:
            name = "dims" if views.dims else "quantize"
            raise InputError(f"{name}: not for {cls.task}; its max_active_dims says how much of a vector is kept")
        encoded, static = _ways(checkpoint)
        vocab, encoder, splade, source, limit = _encoded(encoded) if encoded else _alone(checkpoint)
        if vocab > _MOST_WORDS:
            raise UnsupportedError(checkpoint.modules[0].file, "vocab_size", vocab, f"at most {_MOST_WORDS}")
        tokenizer = read_tokenizer(source)
        if splade is not None and not reference_tokenizer(tokenizer).encode("").ids:
            supported = "one that adds special tokens: an empty text has no token otherwise, and no vector"
            raise UnsupportedError(tokenizer.file, "post_processor", None, supported)
        most: int | None = checkpoint.reference.max_active_dims
        if most is not None and most >= vocab:
            most = None
        texts = sparse_signatures(_prompts(checkpoint, views.prompts, static), vocab, most)
        require_room(tokenizer, {item.prompt.text for item in texts}, encoder.vocab_size)
        model: Any = checkpoint.reference
        dense = {"convert_to_sparse_tensor": False, "show_progress_bar": False}
        require_independent_rows(
            model,
            lambda rows: np.asarray(model.encode_document(rows, max_active_dims=vocab, **dense)),
            checkpoint.modules[0].file.removesuffix("/config.json"),
        )
        return cls(
            texts=texts,
            tokenizer=tokenizer,
            encoder=encoder,
            splade=splade,
            static=None if static is None else _static_weights(static, source, vocab),
            most=most,
            dim=vocab,
            max_length=limit,
        )

    @property
    def signatures(self) -> tuple[Signature, ...]:
        return (*(item.signature for item in self.texts), TOKENIZE)

    @property
    def prompt(self) -> str:
        return self.texts[0].prompt.text

    @property
    def stages(self) -> tuple[str, ...]:
        return self.splade.names if self.splade else ()

    def stamp(self) -> dict[str, Any]:
        return {"sparse_signatures": [asdict(item) for item in self.texts]}

    def warmup(self, batching: Batching | None) -> list[Request]:
        # The other forms of a prompt take the same way but for their last few ops, the flat one too.
        texts = [item for item in self.texts if item.signature.by_rows]
        name = next((item.name for item in texts if not item.static), DEFAULT_SIGNATURE)
        requests: list[Request] = [(name, {"text": rows}) for rows in warmup_batches(self.max_length, batching)]
        return [*requests, *((item.name, {"text": [SHORT[0]]}) for item in texts if item.name != name)]

    def __str__(self) -> str:
        lines = [*self.described(), *(str(way) for way in (self.splade, self.static) if way is not None)]
        most = "" if self.most is None else f", at most {self.most} of them active"
        lines.append(f"sparse      float32 [{self.dim}]{most}")
        return "\n".join([*lines, *(f"signature   {item.name}: {item}" for item in self.texts)])


def _ways(checkpoint: Checkpoint) -> tuple[Checkpoint | None, Checkpoint | None]:
    """The way with an encoder, and the one without. Raises ``UnsupportedError`` for others."""
    ways = [checkpoint, *checkpoint.ways.values()]
    found = {tuple(id(module) for module in way.modules): way for way in ways}
    by_kind = {tuple(module.type for module in way.modules): way for way in found.values()}
    encoded, static = by_kind.pop(("Transformer", "SpladePooling"), None), by_kind.pop(("SparseStaticEmbedding",), None)
    if by_kind or len(found) != (encoded is not None) + (static is not None):
        shown = "; ".join(", ".join(module.type for module in way.modules) for way in found.values())
        raise UnsupportedError(checkpoint.modules[0].file, "modules", shown, _LAYOUT)
    return encoded, static


_Read = tuple[int, EncoderSpec, Splade | None, TokenizerSource, int | None]
"""The size of the vocabulary, the encoder and what is behind it, the tokenizer, the most tokens of a text."""


def _encoded(way: Checkpoint) -> _Read:
    transformer, pooling = way.modules
    require_output(transformer, "fill-mask", "token_embeddings")
    encoder = read_encoder(without_head(transformer))
    splade = Splade(read_masked_lm(transformer), read_splade(pooling))
    limit = max_length(way, encoder)
    return splade.masked_lm.vocab_size, encoder, splade, replace(way.tokenizer, max_length=limit), limit


def _alone(way: Checkpoint) -> _Read:
    weights = way.modules[0].tensors["weight"]
    encoder = StaticSpec.of({"weight": np.ascontiguousarray(weights, np.float32)})
    return len(weights), encoder, None, way.tokenizer, way.tokenizer.max_length


def _static_weights(way: Checkpoint, source: TokenizerSource, vocab: int) -> StaticWeights:
    """Of a way whose texts become tokens as ``source`` says, but for special tokens and the length."""
    (module,) = way.modules
    weights = np.ascontiguousarray(module.tensors["weight"], np.float32)
    if weights.shape != (vocab,):
        supported = f"[{vocab}], as the other route's vectors: queries and documents are compared"
        raise UnsupportedError(module.file, "shape of weight", list(weights.shape), supported)
    if _own_tokens(way.tokenizer) != _own_tokens(source):
        raise UnsupportedError(module.file, "tokenizer", "another than the other route's", "the same for both routes")
    if (limit := way.tokenizer.max_length) is not None and limit < 1:
        raise UnsupportedError(way.tokenizer.file, "model_max_length", limit, "positive numbers")
    return StaticWeights(weights, limit)


def _own_tokens(source: TokenizerSource) -> tuple[dict[str, Any], str]:
    return {**json.loads(source.json), "post_processor": None}, source.truncation_side


def _prompts(
    checkpoint: Checkpoint, chosen: Sequence[str] | None, static: Checkpoint | None
) -> list[tuple[Prompt, bool]]:
    """The default prompt, and those that get a signature of their own; and whether their texts go the static way."""
    there = prompt_texts(checkpoint.prompts, checkpoint.prompt, tuple(checkpoint.ways))

    def counted(name: str | None) -> bool:
        way = checkpoint.ways.get(name or "", checkpoint)
        return static is not None and way.modules[0] is static.modules[0]

    named = [(Prompt(name, there[name]), counted(name)) for name in chosen_names(there, chosen)]
    return [(Prompt(None, checkpoint.prompt), counted(None)), *named]
