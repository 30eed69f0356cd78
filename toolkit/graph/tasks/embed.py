"""``embed``: a SentenceTransformer, from text to its embedding."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from toolkit.corpus.check import SHORT
from toolkit.encoder.batching_options import Batching
from toolkit.encoder.families import read_encoder
from toolkit.encoder.family import EncoderSpec
from toolkit.encoder.static import StaticSpec
from toolkit.errors import SourceError, UnsupportedError
from toolkit.graph.spec import (
    Request,
    TaskSpec,
    chosen_names,
    max_length,
    require_output,
    require_room,
    warmup_batches,
)
from toolkit.heads import HEADS
from toolkit.heads.head import HeadSpec, stage_names
from toolkit.heads.normalize import NormalizeSpec
from toolkit.heads.pooling import PoolingSpec, read_pooling
from toolkit.signatures import (
    DEFAULT_SIGNATURE,
    SIGNATURES,
    Prompt,
    Signature,
    TextSignature,
    Views,
    prompt_texts,
    text_signatures,
)
from toolkit.source.checkpoint import Checkpoint, RawModule
from toolkit.source.loaded import prompt_tokens, require_independent_rows
from toolkit.tokenizer import TokenizerSource, TokenizerSpec, read_tokenizer, reference_tokenizer

__all__ = ["EmbedSpec"]

_ONE_TOKEN = ("cls", "max", "lasttoken")  # pooling modes that have no answer for a text without a token


@dataclass(frozen=True, kw_only=True)
class EmbedSpec(TaskSpec):
    """Its signatures from text to embedding (the default one first), and the modules after the encoder."""

    task: ClassVar[str] = "embed"

    texts: tuple[TextSignature, ...]
    pooling: PoolingSpec
    heads: tuple[HeadSpec, ...]
    truncate_dim: int | None

    @classmethod
    def read(cls, checkpoint: Checkpoint, views: Views = Views()) -> Self:
        first = checkpoint.modules[0]
        encoder, pooling, behind = _body(checkpoint.modules)
        heads: list[HeadSpec] = []
        dim = pooling.dim
        for module in behind:
            if module.type not in HEADS:
                raise UnsupportedError(module.file, "module after Pooling", module.type, HEADS)
            heads.append(HEADS[module.type].read(module, dim))
            dim = heads[-1].width(dim)
        static = isinstance(encoder, StaticSpec)  # which takes texts of any length
        limit = checkpoint.tokenizer.max_length if static else max_length(checkpoint, encoder)
        source = replace(checkpoint.tokenizer, max_length=limit)
        cut = checkpoint.truncate_dim
        if cut is not None and cut < 1:
            raise UnsupportedError(first.file, "truncate_dim", cut, "positive numbers")
        tokenizer = read_tokenizer(source)
        dim = min(dim, cut) if cut else dim
        normalized = bool(heads) and isinstance(heads[-1], NormalizeSpec)
        texts = text_signatures(_prompts(checkpoint, pooling, views.prompts), dim, views, normalized=normalized)
        prompts = {item.prompt.text for item in texts}
        require_room(tokenizer, prompts, encoder.vocab_size)
        for prompt in prompts:
            _require_a_token(source, tokenizer, prompt, pooling)
        model: Any = checkpoint.reference
        require_independent_rows(
            model,
            lambda texts: np.asarray(model.encode(texts, show_progress_bar=False)),
            first.file.removesuffix("/config.json"),
        )
        return cls(
            texts=texts,
            tokenizer=tokenizer,
            encoder=encoder,
            pooling=pooling,
            heads=tuple(heads),
            truncate_dim=cut,
            dim=dim,
            max_length=limit,
        )

    @property
    def precisions(self) -> tuple[str, ...]:
        return ("float32", "bfloat16", "int8") if self.encoder.product_names() else ("float32",)

    @property
    def signatures(self) -> tuple[Signature, ...]:
        return (*SIGNATURES, *(item.signature for item in self.texts[1:]))

    @property
    def prompt(self) -> str:
        return self.texts[0].prompt.text

    @property
    def modules(self) -> tuple[PoolingSpec | HeadSpec, ...]:
        """What stands behind the encoder, in order."""
        return (self.pooling, *self.heads)

    @property
    def stages(self) -> tuple[str, ...]:
        return stage_names(self.modules)

    def stamp(self) -> dict[str, Any]:
        return {"text_signatures": [asdict(item) for item in self.texts]}

    def warmup(self, batching: Batching | None) -> list[Request]:
        requests: list[Request] = [
            (DEFAULT_SIGNATURE, {"text": texts}) for texts in warmup_batches(self.max_length, batching)
        ]
        return [*requests, *((item.name, {"text": [SHORT[0]]}) for item in self.texts[1:])]

    def __str__(self) -> str:
        lines = [*self.described(), *map(str, self.modules), f"embedding   float32 [{self.dim}]"]
        return "\n".join([*lines, *(f"signature   {item.name}: {item}" for item in self.texts[1:])])


def _body(modules: Sequence[RawModule]) -> tuple[EncoderSpec, PoolingSpec, list[RawModule]]:
    """The encoder, its pooling, and the modules behind them."""
    first, *rest = modules
    rest = [module for module in rest if module.type != "Dropout"]  # which does nothing at inference
    if first.type == "StaticEmbedding":
        static = StaticSpec.read(first)
        return static, PoolingSpec(("mean",), static.hidden_size), rest
    if first.type != "Transformer":
        raise UnsupportedError(first.file, "module 0", first.type, ("Transformer", "StaticEmbedding"))
    require_output(first, "feature-extraction", "token_embeddings")
    encoder = read_encoder(first)
    if not rest:
        raise SourceError(f"{first.file}: the model has no Pooling module, so no sentence embedding")
    if rest[0].type != "Pooling":
        raise UnsupportedError(rest[0].file, "module after Transformer", rest[0].type, "Pooling")
    return encoder, read_pooling(rest[0], encoder.hidden_size), rest[1:]


def _prompts(checkpoint: Checkpoint, pooling: PoolingSpec, chosen: Sequence[str] | None) -> list[Prompt]:
    """The default prompt, and those of them that get a signature of their own."""
    there = prompt_texts(checkpoint.prompts, checkpoint.prompt)
    named = [(name, there[name]) for name in chosen_names(there, chosen)]

    def skipped(text: str) -> int:
        return prompt_tokens(checkpoint.reference, text) if text and not pooling.include_prompt else 0

    return [Prompt(name, text, skipped(text)) for name, text in ((None, checkpoint.prompt), *named)]


def _require_a_token(source: TokenizerSource, tokenizer: TokenizerSpec, prompt: str, pooling: PoolingSpec) -> None:
    """Refuse a pooling that has to take some token, where an empty text has none."""
    modes = [mode for mode in pooling.modes if mode in _ONE_TOKEN]
    if modes and not reference_tokenizer(tokenizer).encode(prompt).ids:
        value = (json.loads(source.json).get("post_processor") or {}).get("type")
        supported = f"one that adds special tokens, with {modes[0]} pooling: an empty text has no token otherwise"
        raise UnsupportedError(source.file, "post_processor", value, supported)
