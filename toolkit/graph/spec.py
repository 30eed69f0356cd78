"""Raw checkpoint -> frozen ``ModelSpec``: the encoder's family, the modules behind it, the tokenizer.

Nothing after this stage opens a configuration file. What a family or a module refuses stands with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from toolkit.encoder.families import read_encoder
from toolkit.encoder.family import EncoderSpec
from toolkit.encoder.fields import Fields
from toolkit.errors import InputError, SourceError, UnsupportedError
from toolkit.heads import HEADS
from toolkit.heads.head import HeadSpec
from toolkit.heads.normalize import NormalizeSpec
from toolkit.heads.pooling import PoolingSpec, read_pooling
from toolkit.signatures import Prompt, TextSignature, Views, prompt_texts, text_signatures
from toolkit.source.checkpoint import Checkpoint, RawModule
from toolkit.source.loaded import prompt_tokens, require_independent_rows
from toolkit.tokenizer import TokenizerSource, TokenizerSpec, read_tokenizer, reference_tokenizer
from toolkit.tokenizer.steps import listed

__all__ = ["ModelSpec", "read_spec"]

_ONE_TOKEN = ("cls", "max", "lasttoken")  # pooling modes that have no answer for a text without a token


@dataclass(frozen=True)
class ModelSpec:
    """A whole model: its signatures from text to embedding (the default one first), tokenizer, encoder, the modules
    after it, the embedding's size."""

    texts: tuple[TextSignature, ...]
    tokenizer: TokenizerSpec
    encoder: EncoderSpec
    pooling: PoolingSpec
    heads: tuple[HeadSpec, ...]
    truncate_dim: int | None
    dim: int
    max_length: int

    @property
    def prompt(self) -> str:
        """What is put before each text by default."""
        return self.texts[0].prompt.text

    @property
    def notices(self) -> tuple[str, ...]:
        """What users of the model should know of it."""
        without = self.tokenizer.special_from(self.encoder.vocab_size)
        said = f"texts with {listed(list(without))} are refused: the model has no embedding for it"
        return (f"{self.tokenizer.file}: {said}",) if without else ()

    @property
    def modules(self) -> tuple[PoolingSpec | HeadSpec, ...]:
        """What stands behind the encoder, in order."""
        return (self.pooling, *self.heads)

    def __str__(self) -> str:
        e, tokenizer = self.encoder, type(self.tokenizer.model).__name__
        lines = [
            f"tokenizer   {tokenizer.removesuffix('Model')}, at most {self.max_length} tokens",
            f"encoder     {e.family}, {e.num_layers} layers, hidden size {e.hidden_size}, {e.num_heads} heads",
            *map(str, self.modules),
            f"embedding   float32 [{self.dim}]",
        ]
        if self.prompt:
            lines.insert(0, f"prompt      {self.prompt!r}")
        return "\n".join([*lines, *(f"signature   {item.name}: {item}" for item in self.texts[1:])])


def read_spec(checkpoint: Checkpoint, views: Views = Views()) -> ModelSpec:
    """Turn a checkpoint into a ``ModelSpec``, with the signatures from text to embedding that ``views`` ask for.

    Raises ``UnsupportedError`` naming file, field, value and what is supported; ``SourceError`` for tensors that are
    missing, left over or of another shape than the configuration says; ``InputError`` for ``views`` that do not go with
    the model.
    """
    first, *rest = checkpoint.modules
    if first.type != "Transformer":
        raise UnsupportedError(first.file, "module 0", first.type, "Transformer")
    _require_token_embeddings(first)
    encoder = read_encoder(first)
    modules = [module for module in rest if module.type != "Dropout"]  # which does nothing at inference
    if not modules:
        raise SourceError(f"{first.file}: the model has no Pooling module, so no sentence embedding")
    if modules[0].type != "Pooling":
        raise UnsupportedError(modules[0].file, "module after Transformer", modules[0].type, "Pooling")
    pooling = read_pooling(modules[0], encoder.hidden_size)
    heads: list[HeadSpec] = []
    dim = pooling.dim
    for module in modules[1:]:
        if module.type not in HEADS:
            raise UnsupportedError(module.file, "module after Pooling", module.type, HEADS)
        heads.append(HEADS[module.type].read(module, dim))
        dim = heads[-1].width(dim)
    limit = _max_length(checkpoint, encoder)
    source = replace(checkpoint.tokenizer, max_length=limit)
    cut = checkpoint.truncate_dim
    if cut is not None and cut < 1:
        raise UnsupportedError(first.file, "truncate_dim", cut, "positive numbers")
    tokenizer = read_tokenizer(source)
    dim = min(dim, cut) if cut else dim
    normalized = bool(heads) and isinstance(heads[-1], NormalizeSpec)
    texts = text_signatures(_prompts(checkpoint, pooling, views.prompts), dim, views, normalized=normalized)
    prompts = {item.prompt.text for item in texts}
    _require_room(tokenizer, prompts, encoder.vocab_size)
    for prompt in prompts:
        _require_a_token(source, tokenizer, prompt, pooling)
    require_independent_rows(checkpoint.reference, first.file.removesuffix("/config.json"))
    return ModelSpec(
        texts=texts,
        tokenizer=tokenizer,
        encoder=encoder,
        pooling=pooling,
        heads=tuple(heads),
        truncate_dim=cut,
        dim=dim,
        max_length=limit,
    )


def _max_length(checkpoint: Checkpoint, encoder: EncoderSpec) -> int:
    """The tokens at which texts are cut: sentence-transformers' limit, else the encoder's own."""
    file, limit, own = checkpoint.modules[0].file, checkpoint.tokenizer.max_length, encoder.max_length
    if limit is None:
        if own is None:
            supported = f"a number (--max-seq-length sets it), as {encoder.family} itself takes texts of any length"
            raise UnsupportedError(file, "max_seq_length", None, supported)
        return own
    if own is not None and limit > own:
        raise UnsupportedError(file, "max_seq_length", limit, f"at most {own}, which the encoder has positions for")
    return limit


def _prompts(checkpoint: Checkpoint, pooling: PoolingSpec, chosen: Sequence[str] | None) -> list[Prompt]:
    """The default prompt, and those of them that get a signature of their own."""
    there = prompt_texts(checkpoint.prompts, checkpoint.prompt)
    if unknown := [name for name in chosen or () if name not in there]:
        known = ", ".join(there) or "none, or only empty ones"
        raise InputError(f"prompts: {unknown[0]!r} is none of the model's; it has: {known}")
    named = [(name, there[name]) for name in (there if chosen is None else dict.fromkeys(chosen))]

    def skipped(text: str) -> int:
        return prompt_tokens(checkpoint.reference, text) if text and not pooling.include_prompt else 0

    return [Prompt(name, text, skipped(text)) for name, text in ((None, checkpoint.prompt), *named)]


def _require_room(tokenizer: TokenizerSpec, prompts: Iterable[str], vocab_size: int) -> None:
    """Every id that texts have needs an embedding; tokens added without resizing the model have none.

    A special token may lack one (the place of an image in Gemma's text, say): only a text that contains it has it, and
    the graph refuses that text, for which the original raises ``IndexError``.
    """
    root = json.loads(tokenizer.json)
    vocabulary = root["model"]["vocab"]
    # Unigram has a list of pieces and scores, in the order of the ids.
    pieces = vocabulary if isinstance(vocabulary, dict) else {piece[0]: index for index, piece in enumerate(vocabulary)}
    ids: list[tuple[int, str]] = [(index, token) for token, index in pieces.items()]
    added, pad_id = tokenizer.added_tokens, tokenizer.pad_id  # which shorter texts of a batch have
    ids += [(item.id, item.content) for item in added if not item.special or item.id == pad_id]
    reference = reference_tokenizer(tokenizer, max_length=None)
    for prompt in prompts:  # and the tokens around every text
        encoded = reference.encode(prompt)
        ids += zip(encoded.ids, encoded.tokens, strict=True)
    if beyond := [item for item in ids if item[0] >= vocab_size]:
        index, token = min(beyond)
        message = f"token {token!r} has id {index}, but the encoder has {vocab_size} embeddings"
        raise SourceError(f"{tokenizer.file}: {message}")


def _require_a_token(source: TokenizerSource, tokenizer: TokenizerSpec, prompt: str, pooling: PoolingSpec) -> None:
    """Refuse a pooling that has to take some token, where an empty text has none."""
    modes = [mode for mode in pooling.modes if mode in _ONE_TOKEN]
    if modes and not reference_tokenizer(tokenizer).encode(prompt).ids:
        value = (json.loads(source.json).get("post_processor") or {}).get("type")
        supported = f"one that adds special tokens, with {modes[0]} pooling: an empty text has no token otherwise"
        raise UnsupportedError(source.file, "post_processor", value, supported)


def _require_token_embeddings(module: RawModule) -> None:
    """Refuse a Transformer module that yields something else than the last hidden state of a text."""
    fields = Fields(module)
    fields.only("transformer_task", ("feature-extraction",), "feature-extraction")
    fields.only("module_output_name", ("token_embeddings",), "token_embeddings")
    fields.only("query_expansion", (None,))
    if options := module.config.get("processing_kwargs"):
        raise UnsupportedError(module.file, "processing_kwargs", options, "none")
