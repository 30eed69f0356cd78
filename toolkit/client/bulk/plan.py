"""What a bulk run does, settled when it begins, and the same until it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from toolkit.client.types import ModelMetadata
from toolkit.errors import InputError, SignatureError

__all__ = ["Form", "Plan", "continued", "new_plan"]


class Form(NamedTuple):
    """The parts of a `Plan` that are the files' alone."""

    output_format: str
    input_format: str
    text_column: str
    keep: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What must not change between a run and its continuation. ``digest`` is the artifact's, where it is at hand."""

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
    tensor = info.outputs.get("embedding")
    if list(info.inputs) != ["text"] or tensor is None or not tensor.shape or tensor.shape[-1] is None:
        sides = [", ".join(map(str, side.values())) for side in (info.inputs, info.outputs)]
        raise SignatureError(
            f"signature {signature!r} is not text to embedding: it takes {sides[0]} and gives {sides[1]}",
            address=address,
            model=model,
        )
    beside = tuple(name for name, item in info.outputs.items() if item.shape is not None and len(item.shape) == 1)
    tables = form.output_format in ("jsonl", "parquet")
    outputs = ("embedding", *beside) if tables else ("embedding",)
    clash = set(form.keep) & {"row", "text", *outputs}
    if clash and tables:
        raise InputError(f"column {', '.join(sorted(clash))} cannot be kept: the output has one of that name")
    dtype = "float32" if tensor.dtype.startswith(("float", "bfloat")) else tensor.dtype
    return Plan(model, metadata.version, signature, outputs, tensor.shape[-1], dtype, *form, digest=digest)


def continued(before: Plan, form: Form, **wanted: Any) -> Plan:
    """``before``, for a run that goes on with these values. Raises `InputError` that says what differs."""
    for name, value in asdict(replace(before, **form._asdict(), **wanted)).items():
        if value != getattr(before, name):
            raise InputError(f"the unfinished run has {name} {getattr(before, name)!r}, not {value!r}")
    return before
