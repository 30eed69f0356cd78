"""``multi_vector``: a MultiVectorEncoder, from text to a vector for each of its tokens (ColBERT and its kin)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from toolkit.corpus.check import SHORT
from toolkit.encoder.batching_options import Batching
from toolkit.encoder.families import read_encoder
from toolkit.encoder.family import EncoderSpec
from toolkit.encoder.fields import Fields
from toolkit.errors import InputError, SourceError, UnsupportedError
from toolkit.graph.spec import (
    Request,
    TaskSpec,
    chosen_names,
    max_length,
    require_output,
    require_room,
    warmup_batches,
)
from toolkit.heads.dense import DenseSpec
from toolkit.heads.head import TOKENS, HeadSpec, require_feature, stage_names
from toolkit.heads.normalize import NormalizeSpec
from toolkit.heads.token_pooling import TokenPoolingSpec
from toolkit.signatures import (
    DEFAULT_SIGNATURE,
    Prompt,
    Signature,
    Views,
)
from toolkit.source.checkpoint import Checkpoint, RawModule
from toolkit.source.loaded import expansion_id, require_independent_rows
from toolkit.tokenizer import TokenizerSpec, read_tokenizer
from toolkit.vectors_signatures import DOCUMENT, QUERY, VectorsSignature, role_prompts, vectors_signatures

__all__ = ["ROLES", "Expansion", "MultiVectorSpec", "Role"]

ROLES: tuple[str | None, ...] = (None, QUERY, DOCUMENT)
"""What a text is taken for: by ``encode``, ``encode_query`` and ``encode_document``."""

_HEADS: Mapping[str, type[HeadSpec]] = {head.module_type: head for head in (DenseSpec, NormalizeSpec)}
_MASK, _POOLING = "MultiVectorMask", "HierarchicalTokenPooling"


@dataclass(frozen=True)
class Expansion:
    """What fills a query up to ``length`` tokens: the token with this ``id``, to which others look if ``attended``."""

    length: int
    id: int
    attended: bool


@dataclass(frozen=True)
class Role:
    """How a text is treated that is taken for ``name``: cut at ``max_length`` tokens, filled up by ``expansion``.

    Tokens whose ids are in ``skipped`` get no vector, nor do those that are not in ``kept`` (``None``: any may be).
    ``pooling`` is what becomes of the vectors at the end.
    """

    name: str | None
    max_length: int
    expansion: Expansion | None
    skipped: tuple[int, ...]
    kept: tuple[int, ...] | None
    pooling: TokenPoolingSpec | None

    @property
    def length(self) -> int:
        """The most tokens that a text has."""
        return max(self.max_length, self.expansion.length if self.expansion else 0)

    @property
    def merges(self) -> bool:
        """Whether some of a text's vectors become one."""
        return self.pooling is not None and self.pooling.merges

    def __str__(self) -> str:
        words = [f"at most {self.max_length} tokens"]
        if (more := self.expansion) is not None:
            unseen = "" if more.attended else ", not attended to"
            words.append(f"filled up to {more.length} with token {more.id}{unseen}")
        if self.skipped:
            words.append(f"without {len(self.skipped)} kinds of tokens")
        if self.kept is not None:
            words.append(f"of {len(self.kept)} kinds of tokens only")
        if self.pooling is not None:
            words.append(f"pooled: {self.pooling}")
        return ", ".join(words)


@dataclass(frozen=True, kw_only=True)
class MultiVectorSpec(TaskSpec):
    """Its signatures, how each role is treated (as ``ROLES`` has them), and the modules after the encoder, which see
    each token by itself."""

    task: ClassVar[str] = "multi_vector"

    texts: tuple[VectorsSignature, ...]
    roles: tuple[Role, ...]
    heads: tuple[HeadSpec, ...]

    @classmethod
    def read(cls, checkpoint: Checkpoint, views: Views = Views()) -> Self:
        if views.dims or views.quantized:
            raise InputError(f"{'dims' if views.dims else 'quantize'}: not for {cls.task}, whose vectors are whole")
        first, *rest = checkpoint.modules
        if first.type != "Transformer":
            raise UnsupportedError(first.file, "module 0", first.type, "Transformer")
        require_output(first, "feature-extraction", TOKENS, expanding=True)
        encoder = read_encoder(first)
        masks = [module for module in rest if module.type == _MASK]
        if len(masks) > 1:
            raise UnsupportedError(masks[1].file, "module", _MASK, "one of it")
        poolings = [module for module in rest if module.type == _POOLING]
        if poolings and rest[-1] is not poolings[0]:
            raise UnsupportedError(poolings[0].file, "module", _POOLING, "one of it, and nothing behind it")
        heads, dim = _heads([module for module in rest if module.type not in (_MASK, _POOLING)], encoder.hidden_size)
        limit = max_length(checkpoint, encoder)
        roles = tuple(_role(name, checkpoint, limit, masks[0] if masks else None, poolings) for name in ROLES)
        for role in roles:
            _require_taken(role, first, encoder)
        tokenizer = read_tokenizer(replace(checkpoint.tokenizer, max_length=max(role.max_length for role in roles)))
        for role in roles:
            _require_room(role, tokenizer, first)
        prompts = role_prompts(checkpoint.prompts, checkpoint.prompt)
        named = chosen_names({name: prompt.text for name, prompt in prompts.items()}, views.prompts)
        texts = vectors_signatures(Prompt(None, checkpoint.prompt), [prompts[name] for name in named])
        require_room(tokenizer, {item.prompt.text for item in texts}, encoder.vocab_size)
        model: Any = checkpoint.reference
        for ask in (model.encode_query, model.encode_document):
            require_independent_rows(model, partial(_answers, ask), first.file.removesuffix("/config.json"))
        return cls(
            texts=texts,
            roles=roles,
            tokenizer=tokenizer,
            encoder=encoder,
            heads=heads,
            dim=dim,
            max_length=max(role.length for role in roles),
        )

    @property
    def signatures(self) -> tuple[Signature, ...]:
        return tuple(item.signature for item in self.texts)

    @property
    def prompt(self) -> str:
        return self.texts[0].prompt.text

    @property
    def stages(self) -> tuple[str, ...]:
        return stage_names(self.heads)

    @property
    def float32_alone(self) -> str | None:
        if any(role.merges for role in self.roles):
            return "it pools vectors (pool_factor above 1), and coarser ones have other clusters"
        return super().float32_alone

    @property
    def unattended(self) -> bool:
        return any(role.expansion is not None and not role.expansion.attended for role in self.roles)

    def stamp(self) -> dict[str, Any]:
        return {"vectors_signatures": [asdict(item) for item in self.texts]}

    def warmup(self, batching: Batching | None) -> list[Request]:
        requests: list[Request] = [
            (DEFAULT_SIGNATURE, {"text": texts}) for texts in warmup_batches(self.max_length, batching)
        ]
        others = [item.name for item in self.texts[1:] if item.signature.by_rows]
        return [*requests, *((name, {"text": [SHORT[0]]}) for name in others)]

    def __str__(self) -> str:
        lines = [*self.described(), *map(str, self.heads), f"vectors     float32 [tokens, {self.dim}]"]
        lines += [f"{(role.name or 'text'):11} {role}" for role in self.roles]
        return "\n".join([*lines, *(f"signature   {item.name}: {item}" for item in self.texts)])


def _heads(modules: Sequence[RawModule], dim: int) -> tuple[tuple[HeadSpec, ...], int]:
    """What each token goes through behind the encoder, and the size of its vector then."""
    heads: list[HeadSpec] = []
    for module in modules:
        if module.type not in _HEADS:
            raise UnsupportedError(module.file, "module after Transformer", module.type, (*_HEADS, _MASK, _POOLING))
        require_feature(module, TOKENS)
        heads.append(_HEADS[module.type].read(module, dim))
        dim = heads[-1].width(dim)
    return tuple(heads), dim


def _role(
    name: str | None, checkpoint: Checkpoint, limit: int, mask: RawModule | None, poolings: Sequence[RawModule]
) -> Role:
    config = checkpoint.modules[0].config
    own = f"{name}_length"
    if name is not None and config.get(own) is not None:
        limit = Fields(checkpoint.modules[0]).positive(own)
    expansion, settings = None, config.get("query_expansion")
    if name == QUERY and settings is not None:
        length = int(settings["length"])
        # "fixed" cuts at the length that it fills up to, "min" at the query's own length, which is no less.
        limit = length if settings["strategy"] == "fixed" else max(limit, length) if config.get(own) else limit
        attended = bool(settings["attend"])
        side = checkpoint.reference.tokenizer.padding_side
        if side != "right":
            file = checkpoint.tokenizer.file.replace("tokenizer.json", "tokenizer_config.json")
            raise UnsupportedError(file, "padding_side", side, "right, where padding becomes part of queries")
        if attended or mask is not None:  # else it gets no vector either
            expansion = Expansion(length, expansion_id(checkpoint.reference, settings["token"]), attended)
    skipped: tuple[int, ...] = ()
    kept: tuple[int, ...] | None = None
    if mask is not None:
        if (name or DOCUMENT) in mask.config["skiplist_tasks"]:
            skipped = tuple(sorted({int(item) for item in mask.config["skiplist_ids"]}))
        if name != QUERY and mask.config.get("keep_only_token_ids"):
            kept = tuple(sorted({int(item) for item in mask.config["keep_only_token_ids"]}))
    applied = [module for module in poolings if (name or DOCUMENT) in module.config["tasks"]]
    pooling = TokenPoolingSpec.read(applied[0]) if applied else None
    return Role(name, limit, expansion, skipped, kept, pooling)


def _require_taken(role: Role, first: RawModule, encoder: EncoderSpec) -> None:
    """Refuse more tokens than there are positions, and what fills up queries where this encoder does not take it."""
    own, more = encoder.max_length, role.expansion
    if own is not None and role.length > own:
        field = "query_expansion.length" if role.length > role.max_length else f"{role.name or 'max_seq'}_length"
        raise UnsupportedError(first.file, field, role.length, f"at most {own}, which the encoder has positions for")
    if more is not None and more.id >= encoder.vocab_size:
        message = f"token {more.id} fills queries up, but the encoder has {encoder.vocab_size} embeddings"
        raise SourceError(f"{first.file}: {message}")
    if more is None or more.attended:
        return
    if not encoder.any_look:
        supported = f"true with {encoder.family}, which computes nothing of tokens that are not attended to"
        raise UnsupportedError(first.file, "query_expansion.attend", False, supported)
    if encoder.sight is not None and more.length - 1 > encoder.sight:
        supported = f"at most {encoder.sight + 1}, as layers see no further, and farther tokens may see none"
        raise UnsupportedError(first.file, "query_expansion.length", more.length, supported)


def _require_room(role: Role, tokenizer: TokenizerSpec, first: RawModule) -> None:
    """Refuse a length that is less than the special tokens around a text."""
    if role.max_length < (least := max(tokenizer.template.size, 1)):
        field = f"{role.name or 'max_seq'}_length"
        raise UnsupportedError(first.file, field, role.max_length, f"at least {least} (special tokens)")


def _answers(ask: Any, texts: list[str]) -> Any:
    """The original's vectors, with one more of zeros, so that there is one."""
    found: list[npt.NDArray[np.float32]] = ask(texts, convert_to_numpy=True, show_progress_bar=False)
    return [np.pad(vectors, ((0, 1), (0, 0))) for vectors in found]
