"""The signatures of a SparseEncoder's model: each prompt's sparse vectors in three forms.

``flat`` holds what is active and nothing else; ``padded`` has a row for each text, as servers that batch rows need it;
``dense`` has every number. A sparse vector's ``indices`` ascend, and none of its ``values`` is 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.signatures import DEFAULT_SIGNATURE, SIGNATURES, TEXT, Prompt, Signature, Tensor, stamped, take_name

__all__ = [
    "DENSE",
    "FLAT",
    "PADDED",
    "SPARSE_DENSE",
    "SPARSE_SIGNATURE",
    "SPARSE_SIGNATURES",
    "TOKENIZE",
    "SparseSignature",
    "sparse_signatures",
    "stamped_sparse_signatures",
]

FLAT, PADDED, DENSE = "flat", "padded", "dense"
SPARSE_SIGNATURE, SPARSE_DENSE = "sparse", "sparse_dense"
"""What a client asks for, and what tells how many numbers a vector has."""

_OUTPUTS: Mapping[str, tuple[Tensor, ...]] = {
    FLAT: (
        Tensor("indices", "int32", ("active",)),
        Tensor("values", "float32", ("active",)),
        Tensor("row_splits", "int32", ("batch + 1",)),
    ),
    PADDED: (
        Tensor("indices", "int32", ("batch", "most active")),
        Tensor("values", "float32", ("batch", "most active")),
    ),
    DENSE: (Tensor("embedding", "float32", ("batch", "dim")),),
}
_SUFFIXES = {FLAT: "", PADDED: "_padded", DENSE: "_dense"}
_WORDS = {
    FLAT: "what is active, row by row",
    PADDED: "padded with index 0 and value 0",
    DENSE: "every number",
}

SPARSE_SIGNATURES = (
    ("sparse", "raw text to what is active in its sparse vector: indices, values, row_splits"),
    ("sparse_padded", "the same with a row for each text, filled up with value 0; serving_default is the same"),
    ("sparse_dense", "the same with every number"),
    (
        "sparse_query, sparse_document",
        "the same as encode_query and encode_document, where the model has a prompt or a route for them",
    ),
    ("sparse_PROMPT", "the same with that prompt of the model before each text"),
)
"""Name and meaning, in words."""

TOKENIZE = next(item for item in SIGNATURES if item.name == "tokenize")


@dataclass(frozen=True)
class SparseSignature:
    """A signature from raw text to its sparse vector, with the prompt that is put before each text.

    ``form`` is one of three, ``dim`` the size of the vocabulary that vectors are over. ``most``: at most so many
    numbers are active, those of the largest magnitude (``None``: any may be). ``static``: each token that occurs has
    its own weight, and no encoder runs.
    """

    name: str
    prompt: Prompt
    form: str
    dim: int
    most: int | None = None
    static: bool = False

    def __str__(self) -> str:
        words = [str(self.prompt)]
        if self.static:
            words.append("a weight for each token, no encoder")
        if self.most is not None:
            words.append(f"the largest {self.most} of {self.dim} numbers")
        return ", ".join([*words, _WORDS[self.form]])

    @property
    def signature(self) -> Signature:
        """Its inputs and outputs."""
        return Signature(self.name, str(self), (TEXT,), _OUTPUTS[self.form])


def sparse_signatures(
    prompts: Sequence[tuple[Prompt, bool]], dim: int, most: int | None
) -> tuple[SparseSignature, ...]:
    """The table: of each prompt, and whether its texts are ``static``, three forms. The first prompt is the default
    one, whose padded form is ``serving_default`` too and stands first.

    Raises ``InputError`` for a name that no signature can have, or that is another's.
    """
    (first, static), taken = prompts[0], {TOKENIZE.name}
    found = [SparseSignature(DEFAULT_SIGNATURE, first, PADDED, dim, most, static)]
    for (prompt, static), form in itertools.product(prompts, _SUFFIXES):
        name = f"{'sparse' if prompt.name is None else f'sparse_{prompt.name}'}{_SUFFIXES[form]}"
        take_name(name, prompt, taken)
        found.append(SparseSignature(name, prompt, form, dim, most, static))
    return tuple(found)


def stamped_sparse_signatures(provenance: Mapping[str, Any] | None) -> tuple[SparseSignature, ...]:
    """Those of an artifact, from its provenance. Raises ``ArtifactError`` where they cannot be read."""
    return stamped(SparseSignature, "sparse_signatures", provenance)
