"""The signatures of a SparseEncoder's model: each prompt's sparse vectors in three forms.

``flat`` holds what is active and nothing else; ``padded`` has a row for each text, as servers that batch rows need it;
``dense`` has every number. A sparse vector's ``indices`` ascend, and none of its ``values`` is 0.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.errors import ArtifactError, InputError
from toolkit.signatures import DEFAULT_SIGNATURE, SIGNATURES, Prompt, Signature, Tensor

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

_TEXT = Tensor("text", "string", ("batch",))
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

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_SHOWN = 60


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
        text = self.prompt.text
        words = [f"prompt {text[:_SHOWN]!r}{'...' if len(text) > _SHOWN else ''}" if text else "no prompt"]
        if self.static:
            words.append("a weight for each token, no encoder")
        if self.most is not None:
            words.append(f"the largest {self.most} of {self.dim} numbers")
        return ", ".join([*words, _WORDS[self.form]])

    @property
    def signature(self) -> Signature:
        """Its inputs and outputs."""
        return Signature(self.name, str(self), (_TEXT,), _OUTPUTS[self.form])


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
        choose = "choose the prompts that become signatures (--prompts)"
        if not _NAME.fullmatch(name):
            words = "a signature's name is made of letters, digits, '_', '.' and '-'"
            raise InputError(f"prompt {prompt.name!r}: {words}; {choose}")
        if name in taken:
            raise InputError(f"prompt {prompt.name!r}: there is another signature {name!r}; {choose}")
        taken.add(name)
        found.append(SparseSignature(name, prompt, form, dim, most, static))
    return tuple(found)


def stamped_sparse_signatures(provenance: Mapping[str, Any] | None) -> tuple[SparseSignature, ...]:
    """Those of an artifact, from its provenance. Raises ``ArtifactError`` where they cannot be read."""
    stamp = (provenance or {}).get("sparse_signatures") or []
    try:
        return tuple(SparseSignature(**{**item, "prompt": Prompt(**item["prompt"])}) for item in stamp)
    except (TypeError, KeyError) as error:
        raise ArtifactError(f"provenance.json: sparse_signatures is {stamp!r}: {error}") from error
