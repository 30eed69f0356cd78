"""Every signature of an exported model: names, dtypes, shapes. The single source for export, client, check and docs.

A dimension is ``"batch"`` or ``"length"`` (free), ``"dim"`` (the embedding's size), ``"hidden"`` (the encoder's
hidden size). dtypes are numpy's names; ``"string"`` is TensorFlow's DT_STRING (UTF-8 bytes).

Beside those that every model has there is one for each prompt of the model (`text_signatures`).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from toolkit.errors import ArtifactError, InputError

__all__ = [
    "DEFAULT_SIGNATURE",
    "DOCUMENT_PROMPTS",
    "FURTHER_SIGNATURES",
    "GUARD_NODE",
    "PAIR_SIGNATURES",
    "QUANTIZED",
    "SIGNATURES",
    "TEXT",
    "PairSignature",
    "Prompt",
    "Signature",
    "Tensor",
    "TextSignature",
    "Views",
    "adapter_texts",
    "all_pair_signatures",
    "pair_signatures",
    "prompt_texts",
    "stamped",
    "stamped_pair_signatures",
    "stamped_text_signatures",
    "take_name",
    "text_signatures",
]

Kind = TypeVar("Kind")

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

    @property
    def by_rows(self) -> bool:
        """Whether every output has a row for each of the inputs': a server that batches rows refuses others."""
        return all(output.shape[0] == "batch" for output in self.outputs)


TEXT = Tensor("text", "string", ("batch",))
"""The input of every signature of texts."""
_EMBEDDING = Tensor("embedding", "float32", ("batch", "dim"))
_TOKENS = (
    Tensor("input_ids", "int32", ("batch", "length")),
    Tensor("attention_mask", "int32", ("batch", "length")),
    Tensor("token_type_ids", "int32", ("batch", "length")),
)

DEFAULT_SIGNATURE = "serving_default"

SIGNATURES: tuple[Signature, ...] = (
    Signature(DEFAULT_SIGNATURE, "raw text to its embedding", (TEXT,), (_EMBEDDING,)),
    Signature(
        "detailed",
        "the embedding, the number of tokens before truncation (special tokens included) and whether text was cut",
        (TEXT,),
        (_EMBEDDING, Tensor("num_tokens", "int32", ("batch",)), Tensor("truncated", "bool", ("batch",))),
    ),
    Signature("tokenize", "raw text to padded token ids", (TEXT,), _TOKENS),
    Signature("embed_tokens", "token ids to the embedding", _TOKENS, (_EMBEDDING,)),
    Signature(
        "token_embeddings",
        "the encoder's last hidden state, behind the modules in front of pooling, padded",
        (TEXT,),
        (
            Tensor("token_embeddings", "float32", ("batch", "length", "hidden")),
            Tensor("attention_mask", "int32", ("batch", "length")),
        ),
    ),
)

_PAIR = (Tensor("query", "string", ("batch",)), Tensor("document", "string", ("batch",)))
_TOKENIZE_PAIRS = Signature("tokenize_pairs", "pairs of raw texts to padded token ids", _PAIR, _TOKENS)

PAIR_SIGNATURES = (
    ("rerank", "pairs of raw texts to their scores, as predict of a CrossEncoder; serving_default is the same"),
    ("rerank_PROMPT", "the same with that prompt of the model before each query"),
    (_TOKENIZE_PAIRS.name, _TOKENIZE_PAIRS.doc),
)
"""Name and meaning, in words, of those of a CrossEncoder."""

FURTHER_SIGNATURES = (
    ("embed_PROMPT", "raw text to its embedding, with that prompt of the model before it"),
    ("embed_ADAPTER", "raw text to its embedding, with that adapter of the model, and the prompt of its name"),
    ("embed_query, embed_document", "the same as encode_query and encode_document, where the model has any prompt"),
    ("embedding_DIM, embed_PROMPT_DIM", "the first numbers of it, normalized again where the model normalizes"),
    ("..._int8, ..._uint8, ..._binary, ..._ubinary", "the same as quantize_embeddings of it"),
)
"""Name and meaning, in words, of those that depend on the model and on what an export is asked for."""

DOCUMENT_PROMPTS = ("document", "passage", "corpus")
"""Whose text ``SentenceTransformer.encode_document`` takes: the first that is a key of the prompts, be it empty."""

_SHOWN = 60
"""Characters of a prompt that are shown."""

_CHOOSE = "choose the prompts that become signatures (--prompts)"

_SIGNATURE_NAME = re.compile(r"[A-Za-z0-9_.-]+")
"""What the name of a signature may be made of: TensorFlow names ops after it."""


@dataclass(frozen=True)
class Prompt:
    """What is put before each text: ``name`` in the model's prompts (``None``: the default one), its ``text``, and how
    many of its tokens pooling leaves out (``skipped``, 0 where ``include_prompt`` is true). ``adapter`` is the one that
    texts are embedded with in the place of the default one, and then ``name`` is its."""

    name: str | None
    text: str
    skipped: int = 0
    adapter: str | None = None

    def __str__(self) -> str:
        shown = f"{self.text[:_SHOWN]!r}{'...' if len(self.text) > _SHOWN else ''}"
        words = f"prompt {shown}" if self.text else "no prompt"
        return f"adapter {self.adapter}, {words}" if self.adapter else words


QUANTIZED = {"int8": "int8", "uint8": "uint8", "binary": "int8", "ubinary": "uint8"}
"""Kinds of quantized embeddings, as ``quantize_embeddings`` of sentence-transformers (6.2) names them, and dtypes."""


@dataclass(frozen=True)
class Views:
    """Which signatures from text to embedding there are beside the default one: each of ``prompts`` (names, ``None``:
    all that the model has), cut to each of ``dims``, in each of ``quantized``, and all that these make together.

    Raises ``InputError`` for values that go with no model.
    """

    prompts: tuple[str, ...] | None = None
    dims: tuple[int, ...] = ()
    quantized: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for dim in self.dims:
            if dim < 1:
                raise InputError(f"dims: {dim} is not a positive number")
        for kind in self.quantized:
            if kind not in QUANTIZED:
                raise InputError(f"quantize: {kind!r} is not supported; supported: {', '.join(QUANTIZED)}")


@dataclass(frozen=True)
class TextSignature:
    """A signature from raw text to its embedding, with the prompt that is put before each text.

    ``dim`` are the numbers of the embedding. ``cut``: they are the first of the model's, ``normalized`` anew where so
    it is said. ``quantized`` is the kind, or ``None`` for float32.
    """

    name: str
    prompt: Prompt
    dim: int
    cut: bool = False
    normalized: bool = False
    quantized: str | None = None

    def __str__(self) -> str:
        words = [str(self.prompt)]
        if self.prompt.skipped:
            words.append(f"pooled without its first {self.prompt.skipped} tokens")
        if self.cut:
            words.append(f"the first {self.dim} numbers{', normalized' if self.normalized else ''}")
        if self.quantized:
            words.append(f"quantized to {self.quantized}")
        return ", ".join(words)

    @property
    def dtype(self) -> str:
        """numpy's name of what the embedding is made of."""
        return QUANTIZED[self.quantized] if self.quantized else "float32"

    @property
    def size(self) -> int:
        """How many of them: of bits, eight stand in one, and the last is filled up with zeros."""
        return -(-self.dim // 8) if self.quantized in ("binary", "ubinary") else self.dim

    @property
    def ranges(self) -> str | None:
        """Which calibrated ranges it is quantized by; ``None``: it needs none."""
        if self.quantized not in ("int8", "uint8"):
            return None
        return f"ranges_{self.dim}" if self.cut else "ranges"

    @property
    def floats(self) -> str:
        """The name of the same signature before it is quantized."""
        return _name(self.prompt, self.dim if self.cut else None, None)

    @property
    def signature(self) -> Signature:
        """Its inputs and outputs."""
        return Signature(self.name, str(self), (TEXT,), (Tensor("embedding", self.dtype, ("batch", "dim")),))


def _name(prompt: Prompt, dim: int | None, kind: str | None) -> str:
    if prompt.name is None and dim is None and kind is None:
        return DEFAULT_SIGNATURE
    base = "embedding" if prompt.name is None else f"embed_{prompt.name}"
    return "_".join(str(part) for part in (base, dim, kind) if part is not None)


def prompt_texts(prompts: Mapping[str, str], default: str, routed: Sequence[str] = ()) -> dict[str, str]:
    """Name and text of each prompt that gets a signature ``embed_<name>``; ``default`` is the default prompt's text.

    ``query`` and ``document`` are what ``encode_query`` and ``encode_document`` of sentence-transformers (6.2) put
    before a text. A model whose prompts are all empty has none, but for those of the two that are ``routed``: texts go
    another way with them, and only they do that are.
    """
    document = next((prompts[name] for name in DOCUMENT_PROMPTS if name in prompts), default)
    both = {"query": prompts.get("query", default), "document": document}
    named = {} if not any(prompts.values()) else both | dict(prompts)
    if not routed:
        return named
    return {name: both[name] for name in both if name in routed} | {
        name: text for name, text in named.items() if name not in both
    }


def adapter_texts(there: Mapping[str, str], adapters: Sequence[str], default: str) -> dict[str, str]:
    """``there``, name and text of each prompt that gets a signature, with ``adapters`` among them.

    The prompt of an adapter is that of its name, as models are trained for it (``retrieval.query`` of
    ``retrieval_query``, say): the two make one signature. Others have the ``default`` prompt's text.
    """
    plain = {_plain(name): text for name, text in there.items()}
    own = {name: plain.get(_plain(name), default) for name in adapters}
    return {name: text for name, text in there.items() if _plain(name) not in map(_plain, own)} | own


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "_", name.lower())


def text_signatures(
    prompts: Sequence[Prompt], dim: int, views: Views = Views(), *, normalized: bool = False
) -> tuple[TextSignature, ...]:
    """The table of signatures from text to embedding, the default one first.

    ``prompts`` begin with the default one, whose signature is ``serving_default``; every other's is ``embed_<name>``.
    Each is cut and quantized as ``views`` say, under names that end in ``_<dim>``, ``_<kind>`` or both (for the default
    prompt ``embedding_...``). ``dim`` is the size of the model's embeddings; ``normalized``: they end in Normalize.

    Raises ``InputError`` for a cut that is none, and for a name that no signature can have, or that is another's.
    """
    if beyond := [cut for cut in views.dims if cut > dim]:
        raise InputError(f"dims: {beyond[0]} is above the {dim} numbers that the model's vectors have")
    taken = {item.name for item in SIGNATURES} - {DEFAULT_SIGNATURE}
    found: list[TextSignature] = []
    for prompt, cut, kind in itertools.product(
        prompts, (None, *dict.fromkeys(views.dims)), (None, *dict.fromkeys(views.quantized))
    ):
        name = _name(prompt, cut, kind)
        take_name(name, prompt, taken)
        found.append(TextSignature(name, prompt, cut or dim, cut is not None, cut is not None and normalized, kind))
    return tuple(found)


def take_name(name: str, prompt: Prompt, taken: set[str]) -> None:
    """Add a signature's name to those ``taken``. Raises ``InputError`` if it is none, or there already."""
    if not _SIGNATURE_NAME.fullmatch(name):
        raise InputError(
            f"prompt {prompt.name!r}: a signature's name is made of letters, digits, '_', '.' and '-'; {_CHOOSE}"
        )
    if name in taken:
        raise InputError(f"prompt {prompt.name!r}: there is another signature {name!r}; {_CHOOSE}")
    taken.add(name)


def stamped_text_signatures(provenance: Mapping[str, Any] | None) -> tuple[TextSignature, ...]:
    """Those of an artifact, from its provenance. Raises ``ArtifactError`` where they cannot be read."""
    return stamped(TextSignature, "text_signatures", provenance)


def stamped(kind: type[Kind], key: str, provenance: Mapping[str, Any] | None) -> tuple[Kind, ...]:
    """The signatures that a provenance has under ``key``, each with its prompt. Raises ``ArtifactError`` where they
    cannot be read."""
    stamp = (provenance or {}).get(key) or []
    try:
        return tuple(kind(**{**item, "prompt": Prompt(**item["prompt"])}) for item in stamp)
    except (TypeError, KeyError) as error:
        raise ArtifactError(f"provenance.json: {key} is {stamp!r}: {error}") from error


@dataclass(frozen=True)
class PairSignature:
    """A signature from pairs of raw texts to their scores, with the prompt that is put before each query. ``labels``
    are the scores of a pair; of one alone no dimension is made."""

    name: str
    prompt: Prompt
    labels: int

    def __str__(self) -> str:
        return str(self.prompt)

    @property
    def signature(self) -> Signature:
        """Its inputs and outputs."""
        shape = ("batch",) if self.labels == 1 else ("batch", "labels")
        return Signature(self.name, str(self), _PAIR, (Tensor("score", "float32", shape),))


def pair_signatures(prompts: Sequence[Prompt], labels: int) -> tuple[PairSignature, ...]:
    """``rerank`` for the default prompt, which ``prompts`` begin with, and ``rerank_<name>`` for each other one.

    Raises ``InputError`` for a name that no signature can have.
    """
    found = [PairSignature("rerank" if item.name is None else f"rerank_{item.name}", item, labels) for item in prompts]
    taken: set[str] = set()
    for item in found:
        take_name(item.name, item.prompt, taken)
    return tuple(found)


def all_pair_signatures(pairs: Sequence[PairSignature]) -> tuple[Signature, ...]:
    """All that a CrossEncoder's artifact has: the default one under its own name too, and its tokens."""
    default = replace(pairs[0].signature, name=DEFAULT_SIGNATURE)
    return (default, *(item.signature for item in pairs), _TOKENIZE_PAIRS)


def stamped_pair_signatures(provenance: Mapping[str, Any] | None) -> tuple[PairSignature, ...]:
    """Those of an artifact, from its provenance. Raises ``ArtifactError`` where they cannot be read."""
    return stamped(PairSignature, "pair_signatures", provenance)
