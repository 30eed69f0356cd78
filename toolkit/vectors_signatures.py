"""The signatures of models that give a text any number of vectors, one for each of its tokens (ColBERT and its kin)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.signatures import DEFAULT_SIGNATURE, DOCUMENT_PROMPTS, TEXT, Prompt, Signature, Tensor, stamped, take_name

__all__ = [
    "DOCUMENT",
    "MASK",
    "QUERY",
    "ROW_SPLITS",
    "VALUES",
    "VECTORS_SIGNATURES",
    "VectorsSignature",
    "role_prompts",
    "stamped_vectors_signatures",
    "vectors_signatures",
]

QUERY, DOCUMENT = "query", "document"
"""What a text is taken for by ``encode_query`` and ``encode_document``; models of many vectors treat them apart."""

VALUES, ROW_SPLITS, MASK = "values", "row_splits", "mask"
"""Outputs of signatures that give a text any number of vectors."""

VECTORS_SIGNATURES = (
    ("multi_vector", "of a MultiVectorEncoder: raw text to a vector for each of its tokens, ragged, as encode"),
    ("multi_vector_query, multi_vector_document", "the same as encode_query and encode_document"),
    ("multi_vector_PROMPT", "the same as encode, with that prompt of the model"),
    ("multi_vector_..._padded, serving_default", "the same as rows of equal length, with a mask"),
)
"""Name and meaning, in words, of those of models of many vectors."""

_MANY = "multi_vector"
_PADDED = "_padded"


@dataclass(frozen=True)
class VectorsSignature:
    """A signature from raw text to the vectors of its tokens, with the prompt that is put before each text.

    ``role`` is ``"query"`` or ``"document"``, or ``None`` for what ``encode`` makes of a text. Ragged: ``values``
    float32 ``[vectors, dim]``, of which text ``i`` has those from ``row_splits[i]`` to ``row_splits[i + 1]``, int32
    ``[batch + 1]``. ``padded``, for servers that batch by rows and for REST's row form: ``values`` float32 ``[batch,
    most, dim]``, filled up with zeros, and ``mask`` int32 ``[batch, most]``, 1 at vectors.
    """

    name: str
    prompt: Prompt
    role: str | None
    padded: bool = False

    def __str__(self) -> str:
        form = "padded" if self.padded else "ragged"
        return f"a vector for each token of a {self.role or 'text'}, {form}, {self.prompt}"

    @property
    def signature(self) -> Signature:
        """Its inputs and outputs."""
        padded = (Tensor(VALUES, "float32", ("batch", "most", "dim")), Tensor(MASK, "int32", ("batch", "most")))
        ragged = (Tensor(VALUES, "float32", ("vectors", "dim")), Tensor(ROW_SPLITS, "int32", ("batch + 1",)))
        return Signature(self.name, str(self), (TEXT,), padded if self.padded else ragged)


def role_prompts(prompts: Mapping[str, str], default: str) -> dict[str, Prompt]:
    """By name, what ``encode_query`` and ``encode_document`` of a MultiVectorEncoder (6.2) put before a text, and its
    further prompts, those that are not empty."""
    document = next((prompts[name] for name in DOCUMENT_PROMPTS if name in prompts), default)
    found = {QUERY: prompts.get(QUERY, default), DOCUMENT: document}
    found |= {name: text for name, text in prompts.items() if text and name not in found}
    return {name: Prompt(name, text) for name, text in found.items()}


def vectors_signatures(default: Prompt, named: Sequence[Prompt]) -> tuple[VectorsSignature, ...]:
    """The signatures of a model of many vectors a text: ``serving_default`` (padded) and ``multi_vector`` for what
    ``encode`` gives, and for each prompt ``multi_vector_<name>`` and ``multi_vector_<name>_padded``.

    Raises ``InputError`` for a name that no signature can have, or that is another's.
    """
    found = [VectorsSignature(DEFAULT_SIGNATURE, default, None, padded=True), VectorsSignature(_MANY, default, None)]
    for prompt in named:
        name, role = f"{_MANY}_{prompt.name}", prompt.name if prompt.name in (QUERY, DOCUMENT) else None
        found += [VectorsSignature(name, prompt, role), VectorsSignature(name + _PADDED, prompt, role, padded=True)]
    taken: set[str] = set()
    for item in found:
        take_name(item.name, item.prompt, taken)
    return tuple(found)


def stamped_vectors_signatures(provenance: Mapping[str, Any] | None) -> tuple[VectorsSignature, ...]:
    """Those of an artifact, from its provenance. Raises ``ArtifactError`` where they cannot be read."""
    return stamped(VectorsSignature, "vectors_signatures", provenance)
