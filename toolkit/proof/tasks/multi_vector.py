"""The proof of ``multi_vector``: token ids, hidden states, what modules make of them, every signature's vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from toolkit.proof.comparison import HIDDEN_TOLERANCE, Arrays, Bounds, CheckReport, Comparison
from toolkit.proof.proof import Batch, Call, TextProof
from toolkit.proof.reference import asked, told_of
from toolkit.source.checkpoint import Checkpoint
from toolkit.vectors_signatures import (
    MASK,
    ROW_SPLITS,
    VALUES,
    VectorsSignature,
    stamped_vectors_signatures,
)

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

__all__ = ["MultiVectorProof"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Stages:
    """One text in one role through the original: its token ids, those that fill it up included, and by name the
    float32 ``[tokens, size]`` that the encoder and each module behind it yield."""

    input_ids: tuple[int, ...]
    outputs: Sequence[Array]


@dataclass(frozen=True)
class _References:
    """Of each text what the original makes of it in each role, and the vectors of each signature, by its name."""

    stages: Mapping[str | None, Sequence[_Stages]]
    vectors: Mapping[str, Sequence[Array]]


class MultiVectorProof(TextProof):
    """The proof of one artifact."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        folder: Path,
        provenance: Mapping[str, Any] | None,
        texts: Sequence[str] | None,
    ) -> None:
        super().__init__(checkpoint, texts)
        self._signatures = stamped_vectors_signatures(provenance)

    def batch(self, rows: Sequence[int], *, first: bool) -> Batch:
        calls: list[Call] = [(item.name, None) for item in self._signatures]
        if first:  # intermediate stages are large
            calls.append(("stages", None))
        return {"inputs": {"text": [self._texts[row] for row in rows]}, "calls": calls}

    def references(self) -> _References:
        model: Any = self._checkpoint.reference
        with told_of(self._checkpoint):
            vectors = {item.name: _vectors(model, item, self._texts) for item in self._signatures}
            # the signature that a role's stages are shown of is the first of it
            shown = {item.role: item for item in reversed(self._signatures)}
            stages = {role: self._stages(model, item) for role, item in shown.items()}
        return _References(stages, vectors)

    def _stages(self, model: MultiVectorEncoder, item: VectorsSignature, batch_size: int = 16) -> list[_Stages]:
        import torch

        found: list[_Stages] = []
        for start in range(0, len(self._texts), batch_size):
            batch = self._texts[start : start + batch_size]
            features: Any = model.preprocess(batch, prompt=item.prompt.text or None, task=item.role)
            there = features["attention_mask"].bool()
            if (expanded := features.get("query_expansion_positions")) is not None:
                there = there | expanded
            ids, outputs = features["input_ids"], []
            with torch.no_grad():
                for module, raw in zip(model, self._checkpoint.modules, strict=True):
                    if raw.type in ("Transformer", "Dense", "Normalize"):
                        features = module(features)
                        outputs.append(features["token_embeddings"])
            found += [
                _Stages(
                    tuple(int(token) for token in ids[row][there[row]]),
                    [output[row][there[row]].cpu().numpy() for output in outputs],
                )
                for row in range(len(batch))
            ]
        return found

    def compare(self, references: _References, arrays: Arrays, bounds: Bounds) -> CheckReport:
        comparison, coarse = Comparison(self._texts, bounds), bounds.max_abs is None
        for batch, outputs in self.answered(arrays):
            for row, text in enumerate(batch):
                equal = True
                for role, stages in references.stages.items():
                    if f"stages/{role or 'text'}_input_ids" in outputs:
                        equal &= _compare_stages(comparison, role or "text", row, text, outputs, stages[text])
                if not equal:
                    continue  # other tokens give other vectors: nothing to learn from them
                for item in self._signatures:
                    ours = _row(item, outputs, row)
                    comparison.answer(item.name, text, ours, references.vectors[item.name][text], cosine=coarse)
        alone: dict[str, Any] = {} if coarse else {"max_cosine_distance": None, "mean_cosine_distance": None}
        return comparison.report(**alone, unit="lists of vectors, by signature")


def _vectors(model: Any, item: VectorsSignature, texts: Sequence[str]) -> list[Array]:
    """What users of sentence-transformers get, float32 ``[vectors, dim]`` of each text."""
    return list(asked(model, item.prompt.name, texts, convert_to_numpy=True))


def _row(item: VectorsSignature, outputs: Arrays, row: int) -> Array:
    """One text's vectors of the artifact's answer."""
    values = outputs[f"{item.name}/{VALUES}"]
    if item.padded:
        return np.asarray(values[row][outputs[f"{item.name}/{MASK}"][row].astype(bool)])
    splits = outputs[f"{item.name}/{ROW_SPLITS}"]
    return np.asarray(values[splits[row] : splits[row + 1]])


def _compare_stages(
    comparison: Comparison, role: str, row: int, text: int, outputs: Arrays, reference: _Stages
) -> bool:
    """Compare what stands before the vectors of a role; whether the token ids are equal."""
    prefix = f"stages/{role}_"
    splits = outputs[f"{prefix}row_splits"]
    place = slice(splits[row], splits[row + 1])
    ids = tuple(int(token) for token in outputs[f"{prefix}input_ids"][place])
    if not comparison.ids(text, ids, reference.input_ids):
        return False
    names = [key for key in outputs if key.startswith(prefix) and not key.endswith(("_input_ids", "_row_splits"))]
    names.sort(key=lambda key: _stage_number(key.removeprefix(prefix)))
    for key, theirs in zip(names, reference.outputs, strict=True):
        name, factor = key.removeprefix(prefix), HIDDEN_TOLERANCE if key == f"{prefix}hidden" else 1.0
        shown = f"{role}: hidden state" if name == "hidden" else f"{role}: {name}"
        comparison.stage(shown, text, outputs[key][place], theirs, factor)
    return True


def _stage_number(name: str) -> int:
    return 0 if name == "hidden" else int(name.split("_")[0])
