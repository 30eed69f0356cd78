"""``sparse``: a SparseEncoder, from text to a number for each word of the vocabulary, most of which are 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from toolkit.corpus.check import SHORT
from toolkit.encoder.batching_options import Batching
from toolkit.encoder.families import read_encoder
from toolkit.encoder.fields import Fields
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
from toolkit.heads.masked_lm import MaskedLMSpec, read_masked_lm, without_head
from toolkit.heads.splade import SpladePoolingSpec, read_splade
from toolkit.signatures import DEFAULT_SIGNATURE, Prompt, Signature, Views, prompt_texts
from toolkit.source.checkpoint import Checkpoint, RawModule
from toolkit.source.loaded import require_independent_rows
from toolkit.sparse_signatures import TOKENIZE, SparseSignature, sparse_signatures
from toolkit.tokenizer import read_tokenizer, reference_tokenizer

__all__ = ["SparseSpec", "StaticWeights"]

Array = npt.NDArray[np.float32]

_MOST_WORDS = 2**24
"""Indices below it are whole numbers in float32, in which they travel with values."""

_LAYOUT = "Transformer and SpladePooling, alone or as a route of a Router whose other route is a SparseStaticEmbedding"


@dataclass(frozen=True)
class StaticWeights:
    """A route without an encoder, as sentence-transformers' ``SparseStaticEmbedding`` (6.2): a text's vector has the
    ``weights`` ``[vocab]`` of the tokens that occur in its first ``max_length`` (``None``: in all), no special tokens
    around them."""

    weights: Array = field(repr=False)
    max_length: int | None

    def __str__(self) -> str:
        limit = "" if self.max_length is None else f", of at most {self.max_length}"
        return f"static      a weight for each token that occurs{limit}"


@dataclass(frozen=True, kw_only=True)
class SparseSpec(TaskSpec):
    """Its signatures (the default one first), the encoder's head, and how that becomes one vector. At most ``most``
    numbers of it are active. ``static`` is the other route, if there is one."""

    task: ClassVar[str] = "sparse"

    texts: tuple[SparseSignature, ...]
    masked_lm: MaskedLMSpec
    pooling: SpladePoolingSpec
    most: int | None
    static: StaticWeights | None

    @classmethod
    def read(cls, checkpoint: Checkpoint, views: Views = Views()) -> Self:
        if views.dims or views.quantized:
            field = "dims" if views.dims else "quantize"
            raise InputError(f"{field}: not for {cls.task}; its max_active_dims says how much of a vector is kept")
        transformer, splade, static = _modules(checkpoint)
        require_output(transformer, "fill-mask", "token_embeddings")
        encoder = read_encoder(without_head(transformer))
        masked_lm, pooling = read_masked_lm(transformer), read_splade(splade)
        if (vocab := masked_lm.vocab_size) > _MOST_WORDS:
            raise UnsupportedError(transformer.file, "vocab_size", vocab, f"at most {_MOST_WORDS}")
        limit = max_length(checkpoint, encoder)
        tokenizer = read_tokenizer(replace(checkpoint.tokenizer, max_length=limit))
        if not reference_tokenizer(tokenizer).encode("").ids:
            supported = "one that adds special tokens: an empty text has no token otherwise, and no vector"
            raise UnsupportedError(tokenizer.file, "post_processor", None, supported)
        other = None if static is None else _static_weights(static, checkpoint, vocab)
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
            transformer.file.removesuffix("/config.json"),
        )
        return cls(
            texts=texts,
            tokenizer=tokenizer,
            encoder=encoder,
            masked_lm=masked_lm,
            pooling=pooling,
            most=most,
            static=other,
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
        return ("1_masked_lm", "2_spladepooling")

    def stamp(self) -> dict[str, Any]:
        return {"sparse_signatures": [asdict(item) for item in self.texts]}

    def warmup(self, batching: Batching | None) -> list[Request]:
        # The other forms of a prompt take the same way but for their last few ops, the flat one too.
        texts = [item for item in self.texts if item.signature.by_rows]
        name = next((item.name for item in texts if not item.static), DEFAULT_SIGNATURE)
        requests: list[Request] = [(name, {"text": rows}) for rows in warmup_batches(self.max_length, batching)]
        return [*requests, *((item.name, {"text": [SHORT[0]]}) for item in texts if item.name != name)]

    def __str__(self) -> str:
        lines = [*self.described(), str(self.masked_lm), str(self.pooling)]
        if self.static is not None:
            lines.append(str(self.static))
        most = "" if self.most is None else f", at most {self.most} of them active"
        lines.append(f"sparse      float32 [{self.dim}]{most}")
        return "\n".join([*lines, *(f"signature   {item.name}: {item}" for item in self.texts)])


def _modules(checkpoint: Checkpoint) -> tuple[RawModule, RawModule, RawModule | None]:
    """The encoder, its pooling, and the route without an encoder. Raises ``UnsupportedError`` for another layout."""
    by_route: dict[str | None, list[RawModule]] = {}
    for module in checkpoint.modules:
        by_route.setdefault(module.route, []).append(module)
    found = {tuple(module.type for module in modules): modules for modules in by_route.values()}
    static = found.pop(("SparseStaticEmbedding",), None)
    splade = found.pop(("Transformer", "SpladePooling"), None)
    if splade is None or found or len(by_route) > 2:
        shown = "; ".join(", ".join(module.type for module in modules) for modules in by_route.values())
        raise UnsupportedError(checkpoint.modules[0].file, "modules", shown, _LAYOUT)
    return splade[0], splade[1], static[0] if static else None


def _static_weights(module: RawModule, checkpoint: Checkpoint, vocab: int) -> StaticWeights:
    weights = np.ascontiguousarray(module.tensors["weight"], np.float32)
    if weights.shape != (vocab,):
        supported = f"[{vocab}], as the other route's vectors: queries and documents are compared"
        raise UnsupportedError(module.file, "shape of weight", list(weights.shape), supported)
    if module.config["tokenizer"] != checkpoint.tokenizer.json:
        raise UnsupportedError(module.file, "tokenizer", "another than the other route's", "the same for both routes")
    if (limit := module.config["max_length"]) is not None:
        limit = Fields(module).positive("max_length")
    return StaticWeights(weights, limit)


def _prompts(
    checkpoint: Checkpoint, chosen: Sequence[str] | None, static: RawModule | None
) -> list[tuple[Prompt, bool]]:
    """The default prompt, and those that get a signature of their own; and whether their texts go the static route.

    Where there are routes, queries and documents have a signature each even if no prompt is put before them.
    """
    there = prompt_texts(checkpoint.prompts, checkpoint.prompt)
    if static is not None:
        there = {
            "query": checkpoint.prompts.get("query", ""),
            "document": checkpoint.prompts.get("document", ""),
        } | there
    routes = checkpoint.routes
    goes = {name: static is not None and routes.get(name or "") == static.route for name in (None, "query", "document")}
    named = [(Prompt(name, there[name]), goes.get(name, goes[None])) for name in chosen_names(there, chosen)]
    return [(Prompt(None, checkpoint.prompt), goes[None]), *named]
