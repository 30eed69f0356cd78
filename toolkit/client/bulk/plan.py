"""What a bulk run does, settled when it begins, and the same until it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from toolkit.client.types import Array, ModelMetadata, SignatureInfo
from toolkit.client.wire.arrays import Ragged, row_aligned
from toolkit.client.wire.sparse import SPARSE, sparse_rows
from toolkit.errors import InputError, SignatureError
from toolkit.vectors_signatures import ROW_SPLITS, VALUES

__all__ = ["Form", "Plan", "continued", "new_plan"]


class Form(NamedTuple):
    """The parts of a `Plan` that are the files' alone."""

    output_format: str
    input_format: str
    text_column: str
    keep: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What must not change between a run and its continuation. ``digest`` is the artifact's, where it is at hand.
    ``ragged``: a text has any number of vectors, ``[vectors, dim]``."""

    model: str
    version: int | None
    signature: str
    outputs: tuple[str, ...]
    dim: int
    dtype: str
    output_format: str
    input_format: str
    text_column: str
    keep: tuple[str, ...]
    digest: str | None = None
    ragged: bool = False

    @property
    def sparse(self) -> bool:
        """Whether a text has a sparse vector, whose ``dim`` does not matter (0)."""
        return set(SPARSE) <= set(self.outputs)

    @property
    def columns(self) -> tuple[str, ...]:
        """What is written of each row."""
        return SPARSE if self.sparse else (VALUES,) if self.ragged else self.outputs

    def answered(self, answer: Mapping[str, Array], count: int) -> dict[str, Any]:
        """An answer for ``count`` rows, by column. Raises `ResponseError` if it is none."""
        if self.sparse:
            return {**sparse_rows(answer, count)}
        if self.ragged:
            return {VALUES: Ragged.of(answer, count)}
        return {name: row_aligned(name, answer, count) for name in self.outputs}

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> Plan:
        """A plan as JSON holds it. Raises `TypeError` if something is missing."""
        plan: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()
        }
        return cls(**plan)


def new_plan(
    metadata: ModelMetadata, form: Form, *, model: str, signature: str, address: str, digest: str | None = None
) -> Plan:
    """The plan for ``signature`` of a model that describes itself so.

    Raises `SignatureError` if the signature is not there or not from text to embedding, `InputError` for kept columns
    that would meet an output of their name.
    """
    info = metadata.signatures.get(signature)
    if info is None:
        names = ", ".join(metadata.signatures)
        raise SignatureError(f"the model has no signature {signature!r}; it has: {names}", address=address, model=model)
    ragged = set(info.outputs) == {VALUES, ROW_SPLITS}
    tensor = info.outputs.get(VALUES if ragged else "embedding")
    dim = tensor.shape[-1] if tensor is not None and tensor.shape else None
    if sparse := set(SPARSE) <= set(info.outputs):
        tensor, dim = info.outputs[VALUES], 0
    if list(info.inputs) != ["text"] or tensor is None or dim is None:
        sides = [", ".join(map(str, side.values())) for side in (info.inputs, info.outputs)]
        raise SignatureError(
            f"signature {signature!r} is not text to embedding: it takes {sides[0]} and gives {sides[1]}",
            address=address,
            model=model,
        )
    tables = form.output_format in ("jsonl", "parquet")
    if sparse and not tables:
        message = f"signature {signature!r} gives a text a sparse vector, for which there is no place"
        raise InputError(f"{message} in .{form.output_format}; supported: .parquet, .jsonl")
    if ragged and not tables:
        message = f"signature {signature!r} gives a text any number of vectors, for which there is no place"
        raise InputError(f"{message} in .{form.output_format}; supported: .parquet, .jsonl")
    outputs = tuple(info.outputs) if sparse or ragged else ("embedding", *_beside(info)) if tables else ("embedding",)
    dtype = "float32" if tensor.dtype.startswith(("float", "bfloat")) else tensor.dtype
    plan = Plan(model, metadata.version, signature, outputs, dim, dtype, *form, digest, ragged)
    clash = set(form.keep) & {"row", "text", *plan.columns}
    if clash and tables:
        raise InputError(f"column {', '.join(sorted(clash))} cannot be kept: the output has one of that name")
    return plan


def _beside(info: SignatureInfo) -> list[str]:
    """Outputs with one number a row."""
    return [name for name, item in info.outputs.items() if item.shape is not None and len(item.shape) == 1]


def continued(before: Plan, form: Form, **wanted: Any) -> Plan:
    """``before``, for a run that goes on with these values. Raises `InputError` that says what differs."""
    for name, value in asdict(replace(before, **form._asdict(), **wanted)).items():
        if value != getattr(before, name):
            raise InputError(f"the unfinished run has {name} {getattr(before, name)!r}, not {value!r}")
    return before
