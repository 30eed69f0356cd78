"""``embed``: a SentenceTransformer, from text to its embedding."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np

from toolkit.corpus.check import SHORT
from toolkit.encoder.adapters import merged
from toolkit.encoder.batching_options import Batching
from toolkit.encoder.families import read_encoder
from toolkit.encoder.family import EncoderSpec
from toolkit.encoder.static import StaticSpec
from toolkit.errors import UnsupportedError
from toolkit.graph.spec import (
    Request,
    TaskSpec,
    chosen_names,
    max_length,
    require_output,
    require_room,
    warmup_batches,
)
from toolkit.graph.tasks.embed_modules import read_modules
from toolkit.heads.head import SENTENCE, HeadSpec, stage_names
from toolkit.heads.normalize import NormalizeSpec
from toolkit.heads.pooling import PoolingSpec
from toolkit.signatures import (
    DEFAULT_SIGNATURE,
    SIGNATURES,
    Prompt,
    Signature,
    TextSignature,
    Views,
    adapter_texts,
    prompt_texts,
    text_signatures,
)
from toolkit.source.checkpoint import Checkpoint
from toolkit.source.loaded import prompt_tokens, require_independent_rows
from toolkit.tokenizer import TokenizerSource, TokenizerSpec, read_tokenizer, reference_tokenizer

__all__ = ["EmbedSpec"]

_ONE_TOKEN = ("cls", "max", "lasttoken")  # pooling modes that have no answer for a text without a token


@dataclass(frozen=True, kw_only=True)
class EmbedSpec(TaskSpec):
    """Its signatures from text to embedding (the default one first), and the modules after the encoder: those that map
    the embeddings of tokens, pooling, and those behind it."""

    task: ClassVar[str] = "embed"

    texts: tuple[TextSignature, ...]
    token_heads: tuple[HeadSpec, ...]
    pooling: PoolingSpec
    heads: tuple[HeadSpec, ...]
    truncate_dim: int | None
    routes: Mapping[str, EmbedSpec] = field(default_factory=dict)

    @classmethod
    def read(cls, checkpoint: Checkpoint, views: Views = Views()) -> Self:
        there = prompt_texts(checkpoint.prompts, checkpoint.prompt, tuple(checkpoint.routes))
        there = adapter_texts(there, checkpoint.adapters, checkpoint.prompt)
        chosen = {name: there[name] for name in chosen_names(there, views.prompts)}
        default = [id(module) for module in checkpoint.modules]
        apart = {name: way for name, way in checkpoint.ways.items() if [id(item) for item in way.modules] != default}
        own: dict[str | None, str] = {None: checkpoint.prompt}
        own |= {name: text for name, text in chosen.items() if name not in apart}
        spec = cls._read_way(checkpoint, None, own, views)
        routes = {
            name: cls._read_way(route, None if name in checkpoint.adapters else name, {name: chosen[name]}, views)
            for name, route in apart.items()
            if name in chosen
        }
        if other := [route for route in routes.values() if route.dim != spec.dim]:
            supported = f"{spec.dim} numbers, as by default"
            raise UnsupportedError(checkpoint.source, "embedding of a route", f"{other[0].dim} numbers", supported)
        if not routes:  # nothing else has these weights
            spec = replace(spec, encoder=merged(spec.encoder))
        further = (item for route in routes.values() for item in route.texts)
        return replace(spec, texts=(*spec.texts, *further), routes=routes)

    @classmethod
    def _read_way(cls, checkpoint: Checkpoint, task: str | None, named: Mapping[str | None, str], views: Views) -> Self:
        """The spec of one way through the model, that of texts with these prompts before them."""
        first, *rest = checkpoint.modules
        encoder: EncoderSpec
        if first.type == "StaticEmbedding":  # which pools its tokens itself, and takes texts of any length
            encoder, own = StaticSpec.read(first), True
        elif first.type == "Transformer":
            require_output(first, "feature-extraction", "token_embeddings")
            encoder, own = read_encoder(first), False
        else:
            raise UnsupportedError(first.file, "module 0", first.type, ("Transformer", "StaticEmbedding"))
        token_heads, pooling, heads, dim = read_modules(first, rest, encoder.hidden_size, pooled=own)
        limit = checkpoint.tokenizer.max_length if own else max_length(checkpoint, encoder)
        source = replace(checkpoint.tokenizer, max_length=limit)
        cut = checkpoint.truncate_dim
        if cut is not None and cut < 1:
            raise UnsupportedError(first.file, "truncate_dim", cut, "positive numbers")
        tokenizer = read_tokenizer(source)
        dim = min(dim, cut) if cut else dim
        last = next((head for head in reversed(heads) if head.writes == SENTENCE), None)
        normalized = isinstance(last, NormalizeSpec)
        texts = text_signatures(_prompts(checkpoint, task, pooling, named), dim, views, normalized=normalized)
        prompts = {item.prompt.text for item in texts}
        require_room(tokenizer, prompts, encoder.vocab_size)
        for prompt in prompts:
            _require_a_token(source, tokenizer, prompt, pooling)
        model: Any = checkpoint.reference
        require_independent_rows(
            model,
            lambda texts: np.asarray(model.encode(texts, show_progress_bar=False, task=task)),
            first.file.removesuffix("/config.json"),
        )
        return cls(
            texts=texts,
            tokenizer=tokenizer,
            encoder=encoder,
            token_heads=token_heads,
            pooling=pooling,
            heads=heads,
            truncate_dim=cut,
            dim=dim,
            max_length=limit,
        )

    @property
    def float32_alone(self) -> str | None:
        return "it has routes or adapters" if self.routes else super().float32_alone

    @property
    def notices(self) -> tuple[str, ...]:
        routes = [notice for route in self.routes.values() for notice in route.notices]
        return tuple(dict.fromkeys([*super().notices, *routes]))

    @property
    def signatures(self) -> tuple[Signature, ...]:
        return (*SIGNATURES, *(item.signature for item in self.texts[1:]))

    @property
    def prompt(self) -> str:
        return self.texts[0].prompt.text

    @property
    def modules(self) -> tuple[PoolingSpec | HeadSpec, ...]:
        """What stands behind the encoder, in order."""
        return (*self.token_heads, self.pooling, *self.heads)

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
        for name, route in self.routes.items():
            if route.texts[0].prompt.adapter:  # as by default, but for what its signatures say
                continue
            lines += [f"{name:<11} {line}" for line in (*route.described(), *map(str, route.modules))]
        return "\n".join([*lines, *(f"signature   {item.name}: {item}" for item in self.texts[1:])])


def _prompts(
    checkpoint: Checkpoint, task: str | None, pooling: PoolingSpec, named: Mapping[str | None, str]
) -> list[Prompt]:
    """The prompts that are put before texts on one way, by name."""

    def skipped(text: str) -> int:
        return prompt_tokens(checkpoint.reference, text, task) if text and not pooling.include_prompt else 0

    adapters = {name: name for name in checkpoint.adapters}
    return [Prompt(name, text, skipped(text), adapters.get(name or "")) for name, text in named.items()]


def _require_a_token(source: TokenizerSource, tokenizer: TokenizerSpec, prompt: str, pooling: PoolingSpec) -> None:
    """Refuse a pooling that has to take some token, where an empty text has none."""
    modes = [mode for mode in pooling.modes if mode in _ONE_TOKEN]
    if modes and not reference_tokenizer(tokenizer).encode(prompt).ids:
        value = (json.loads(source.json).get("post_processor") or {}).get("type")
        supported = f"one that adds special tokens, with {modes[0]} pooling: an empty text has no token otherwise"
        raise UnsupportedError(source.file, "post_processor", value, supported)
