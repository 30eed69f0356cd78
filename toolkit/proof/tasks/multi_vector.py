"""The proof of ``multi_vector``: token ids, hidden states, what modules make of them, every signature's vectors."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from toolkit.proof.clusters import PooledFigure, are_wards, means
from toolkit.proof.comparison import HIDDEN_TOLERANCE, Arrays, Bounds, CheckReport, Comparison
from toolkit.proof.proof import Batch, Call, TextProof
from toolkit.proof.reference import told_of
from toolkit.source.checkpoint import Checkpoint
from toolkit.source.loaded import asked
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
    """Of each text what the original makes of it in each role, and the vectors of each signature, by its name; of those
    that pool also, by the name of the prompt, what they are before that."""

    stages: Mapping[str | None, Sequence[_Stages]]
    vectors: Mapping[str, Sequence[Array]]
    whole: Mapping[str | None, Sequence[Array]]


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
        last: Any = list(checkpoint.reference)[-1]
        merges = checkpoint.modules[-1].type == "HierarchicalTokenPooling" and last.pool_factor > 1
        self._pooling: Any = last if merges else None

    def batch(self, rows: Sequence[int], *, first: bool) -> Batch:
        calls: list[Call] = [(item.name, None) for item in self._signatures]
        if first or self._pooling is not None:  # intermediate stages are large; clusters may be others in each batch
            calls.append(("stages", None))
        return {"inputs": {"text": [self._texts[row] for row in rows]}, "calls": calls}

    def references(self) -> _References:
        model: Any = self._checkpoint.reference
        with told_of(self._checkpoint):
            vectors = {item.name: _vectors(model, item.prompt.name, self._texts) for item in self._signatures}
            by_name = {name: answers(self._texts) for name, answers in self._checkpoint.answers.items()}
            vectors |= {item.name: by_name[item.role] for item in self._signatures if item.role in by_name}
            # the signature that a role's stages are shown of is the first of it
            shown = {item.role: item for item in reversed(self._signatures)}
            stages = {role: self._stages(model, item) for role, item in shown.items()}
            names = {item.prompt.name for item in self._signatures if self._pools(item)}
            whole = {name: _vectors(_without_last(model), name, self._texts) for name in names}
        return _References(stages, vectors, whole)

    def _pools(self, item: VectorsSignature) -> bool:
        return self._pooling is not None and bool(self._pooling.applies_to(item.role))

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
        coarse = bounds.max_abs is None
        comparison = _Comparison(self._texts, bounds, self._pooling)
        for batch, outputs in self.answered(arrays):
            for row, text in enumerate(batch):
                equal = True
                for role, stages in references.stages.items():
                    if f"stages/{role or 'text'}_input_ids" in outputs:
                        equal &= _compare_stages(comparison, role or "text", row, text, outputs, stages[text])
                if not equal:
                    continue  # other tokens give other vectors: nothing to learn from them
                for item in self._signatures:
                    ours, theirs = _row(item, outputs, row), references.vectors[item.name][text]
                    if self._pools(item):
                        labels = _clusters(self._signatures, item, outputs, row)
                        comparison.pooled(item, text, ours, theirs, references.whole[item.prompt.name][text], labels)
                    else:
                        comparison.answer(item.name, text, ours, theirs, cosine=coarse)
        alone: dict[str, Any] = {} if coarse else {"max_cosine_distance": None, "mean_cosine_distance": None}
        pooled = tuple(comparison.pooled_figures.values())
        return comparison.report(**alone, pooled=pooled, unit="lists of vectors, by signature")


class _Comparison(Comparison):
    """Of lists of vectors, which the original's module ``pooling`` may have made fewer."""

    def __init__(self, texts: Sequence[str], bounds: Bounds, pooling: Any) -> None:
        super().__init__(texts, bounds)
        self.pooled_figures: dict[str, PooledFigure] = {}
        self._pooling = pooling
        self._right: dict[tuple[str | None, int, bytes], bool] = {}

    def pooled(
        self, item: VectorsSignature, text: int, ours: Array, theirs: Array, whole: Array, labels: Array
    ) -> None:
        """Compare pooled vectors with the original's, or where its clusters are others with the means of the ``whole``
        vectors by the artifact's own ``labels``, if those may be at near ties."""
        self.seen(item.name)
        before = self.pooled_figures.get(item.name, PooledFigure(item.name, 0, 0))
        off = not self._near(ours, theirs)
        if off and len(labels) == len(whole):
            made = means(whole, labels, normalized=self._pooling.normalize_embeddings)
            if self._near(ours, made) and self._may_be(item, text, whole, labels):
                theirs = made
        self.pooled_figures[item.name] = PooledFigure(item.name, before.texts + 1, before.off + off)
        self.answer(item.name, text, ours, theirs)

    def _near(self, ours: Array, theirs: Array) -> bool:
        return ours.shape == theirs.shape and self.bounds.allows(ours, theirs)

    def _may_be(self, item: VectorsSignature, text: int, whole: Array, labels: Array) -> bool:
        """Whether these clusters are those of Ward's method, but for rounding."""
        key = (item.prompt.name, text, labels.tobytes())
        if key not in self._right:
            alone = min(self._pooling.num_protected_tokens, len(whole))
            wanted = max(int((len(whole) - alone) // self._pooling.pool_factor), 1)
            by_themselves = np.array_equal(labels[:alone], np.arange(alone))
            bound = self.bounds.max_abs or 0.0
            self._right[key] = by_themselves and are_wards(whole[alone:], labels[alone:] - alone, wanted, bound)
        return self._right[key]


def _vectors(model: Any, prompt_name: str | None, texts: Sequence[str]) -> list[Array]:
    """What users of sentence-transformers get, float32 ``[vectors, dim]`` of each text."""
    return list(asked(model, prompt_name, texts, convert_to_numpy=True))


def _without_last(model: Any) -> Any:
    """The model without its last module, which shares all others."""
    shorter = copy.copy(model)
    shorter._modules = dict(list(model._modules.items())[:-1])
    return shorter


def _row(item: VectorsSignature, outputs: Arrays, row: int) -> Array:
    """One text's vectors of the artifact's answer."""
    values = outputs[f"{item.name}/{VALUES}"]
    if item.padded:
        return np.asarray(values[row][outputs[f"{item.name}/{MASK}"][row].astype(bool)])
    splits = outputs[f"{item.name}/{ROW_SPLITS}"]
    return np.asarray(values[splits[row] : splits[row + 1]])


def _clusters(signatures: Sequence[VectorsSignature], item: VectorsSignature, outputs: Arrays, row: int) -> Array:
    """Which of a text's vectors each of those before pooling went to."""
    name = next(other.name for other in signatures if other.prompt == item.prompt and not other.padded)
    splits = outputs[f"stages/{name}_clusters_row_splits"]
    return np.asarray(outputs[f"stages/{name}_clusters"][splits[row] : splits[row + 1]])


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
