"""The proof of ``multi_vector``: token ids, hidden states, what modules make of them, every signature's vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from toolkit.proof.clusters import PooledFigure, are_wards, means
from toolkit.proof.comparison import HIDDEN_TOLERANCE, Arrays, Bounds, CheckReport, Comparison
from toolkit.proof.original import Asked, asked_once, told_of
from toolkit.proof.proof import Batch, Call, TextProof
from toolkit.signatures import Prompt
from toolkit.source.checkpoint import Checkpoint
from toolkit.source.loaded import asked
from toolkit.vectors_signatures import (
    MASK,
    ROW_SPLITS,
    VALUES,
    VectorsSignature,
    role_prompts,
    stamped_vectors_signatures,
)

__all__ = ["MultiVectorProof"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Stages:
    """One text in one role through the original: its token ids, those that fill it up included, and by name the
    float32 ``[tokens, size]`` that the encoder and each module behind it yield."""

    input_ids: tuple[int, ...]
    outputs: Sequence[Array]


class _Answer(NamedTuple):
    """One text through the original for one prompt: its vectors, and what they are before any are pooled."""

    stages: _Stages
    vectors: Array
    whole: Array


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
        with told_of(self._checkpoint):
            by_prompt = {item.prompt.name: item for item in reversed(self._signatures)}
            texts = {name: self._answers(item) for name, item in by_prompt.items()}
            given = {role: answers(self._texts) for role, answers in self._checkpoint.answers.items()}
        # the signature that a role's stages are shown of is the first of it
        shown = {item.role: item.prompt.name for item in reversed(self._signatures)}
        return _References(
            stages={role: [text.stages for text in texts[name]] for role, name in shown.items()},
            vectors={
                item.name: given[item.role]
                if item.role in given
                else [text.vectors for text in texts[item.prompt.name]]
                for item in self._signatures
            },
            whole={name: [text.whole for text in texts[name]] for name, item in by_prompt.items() if self._pools(item)},
        )

    def _pools(self, item: VectorsSignature) -> bool:
        return self._pooling is not None and bool(self._pooling.applies_to(item.role))

    def _answers(self, item: VectorsSignature) -> list[_Answer]:
        """What the original makes of each text for a signature's prompt."""
        model: Any = self._checkpoint.reference
        prompts = role_prompts(self._checkpoint.prompts, self._checkpoint.prompt)
        prompt = prompts.get(item.prompt.name or "", Prompt(None, self._checkpoint.prompt)).text
        return asked_once(
            self._texts,
            tokens=lambda batch: model.preprocess(batch, prompt=prompt or None, task=item.role),
            answers=lambda batch: asked(model, item.prompt.name, batch, convert_to_numpy=True, batch_size=len(batch)),
            first=model[0],
            modules=list(model),
            read=self._read,
        )

    def _read(self, batch: Asked) -> Iterator[_Answer]:
        outputs = [
            batch.by_token(wrote["token_embeddings"])
            for wrote, raw in zip(batch.wrote, self._checkpoint.modules, strict=True)
            if raw.type in ("Transformer", "Dense", "Normalize")
        ]
        whole = batch.answers
        if self._pooling is not None:  # the last module, whose vectors are those of the one before it
            before = batch.wrote[-2]
            whole = batch.by_token(before["token_embeddings"], before["attention_mask"])
        for number, row in enumerate(batch.rows):
            stages = _Stages(row.ids, [output[number] for output in outputs])
            yield _Answer(stages, batch.answers[number], whole[number])

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
