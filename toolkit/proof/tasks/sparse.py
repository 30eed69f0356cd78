"""The proof of ``sparse``: token ids, hidden states, and every signature's vectors: what is active, and its values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from toolkit.proof.comparison import HIDDEN_TOLERANCE, Arrays, Bounds, CheckReport, Comparison, SparseFigure
from toolkit.proof.original import BATCH, Asked, asked_once, told_of
from toolkit.proof.proof import Batch, Call, TextProof
from toolkit.signatures import DEFAULT_SIGNATURE, prompt_texts
from toolkit.source.checkpoint import Checkpoint
from toolkit.source.loaded import asked, first_of
from toolkit.sparse_signatures import DENSE, FLAT, SparseSignature, stamped_sparse_signatures

__all__ = ["SparseAnswers", "SparseProof"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class SparseAnswers:
    """What the original makes of all texts: token ids and hidden states ``[tokens, hidden]`` of each, and by the name
    of a prompt float32 ``[texts, dim]`` before any number is left out."""

    ids: list[tuple[int, ...]]
    hidden: list[Array]
    vectors: Mapping[str | None, Array]


class _Answer(NamedTuple):
    """One text through the original."""

    ids: tuple[int, ...]
    hidden: Array
    vector: Array


class SparseProof(TextProof):
    """The proof of one artifact. A vector is asked for in every form that there is."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        folder: Path,
        provenance: Mapping[str, Any] | None,
        texts: Sequence[str] | None,
    ) -> None:
        super().__init__(checkpoint, texts)
        self._signatures = stamped_sparse_signatures(provenance)

    def batch(self, rows: Sequence[int], *, first: bool) -> Batch:
        calls: list[Call] = [("tokenize", None)]
        # Forms of one vector differ in their last few ops: after the first pass over the texts one of each will do.
        asked = [item for item in self._signatures if first or item.form == FLAT or item.name == DEFAULT_SIGNATURE]
        calls += [(item.name, None) for item in asked]
        if first:  # large
            calls.append(("stages", None))
        return {"inputs": {"text": [self._texts[row] for row in rows]}, "calls": calls}

    def references(self) -> SparseAnswers:
        checkpoint = self._checkpoint
        signatures = {item.prompt.name: item for item in self._signatures}
        # The states are those of texts behind the default prompt that go through the encoder, as ``role`` does.
        encoding = (name for name, way in checkpoint.ways.items() if way.modules[0].type == "Transformer")
        role = None if checkpoint.modules[0].type == "Transformer" else next(encoding, None)
        prompts = prompt_texts(checkpoint.prompts, checkpoint.prompt, tuple(checkpoint.ways))
        shown = role is None or (role in signatures and prompts[role] == checkpoint.prompt)
        with told_of(checkpoint):
            answers = self._answers(role, **({} if shown else {"prompt": checkpoint.prompt}))
            vectors = {
                name: np.stack([answer.vector for answer in answers])
                if shown and name == role and name not in checkpoint.answers
                else self._vectors(name)
                for name in signatures
            }
        return SparseAnswers([answer.ids for answer in answers], [answer.hidden for answer in answers], vectors)

    def _answers(self, role: str | None, **options: Any) -> list[_Answer]:
        """What the original makes of each text in a ``role``, the default prompt before it."""
        model: Any = self._checkpoint.reference
        first: Any = first_of(model)
        encoder = [first.auto_model.base_model] if hasattr(first, "auto_model") else []
        return asked_once(
            self._texts,
            tokens=lambda batch: first.preprocess(batch, prompt=self._checkpoint.prompt or None),
            answers=lambda batch: self._asked(role, batch, **options),
            first=first,
            modules=encoder,
            read=lambda batch: _read(first, batch),
        )

    def _vectors(self, prompt_name: str | None) -> Array:
        if prompt_name in self._checkpoint.answers:
            return np.asarray(self._checkpoint.answers[prompt_name](self._texts))
        return self._asked(prompt_name, self._texts)

    def _asked(self, prompt_name: str | None, texts: Sequence[str], **options: Any) -> Array:
        """What users of sentence-transformers call for a prompt, with every number of the vectors kept."""
        options |= {"batch_size": BATCH, "convert_to_sparse_tensor": False, "max_active_dims": self._signatures[0].dim}
        return np.asarray(asked(self._checkpoint.reference, prompt_name, texts, **options))

    def compare(self, references: SparseAnswers, arrays: Arrays, bounds: Bounds) -> CheckReport:
        comparison = _Comparison(self._texts, bounds)
        for batch, outputs in self.answered(arrays):
            mask = outputs["tokenize/attention_mask"].astype(bool)
            for row, text in enumerate(batch):
                ids = tuple(int(token) for token in outputs["tokenize/input_ids"][row][mask[row]])
                if not comparison.ids(text, ids, references.ids[text]):
                    continue
                if "stages/hidden" in outputs:
                    hidden = outputs["stages/hidden"][row][mask[row]]
                    comparison.stage("hidden state", text, hidden, references.hidden[text], HIDDEN_TOLERANCE)
                for item in self._signatures:
                    if any(key.startswith(f"{item.name}/") for key in outputs):
                        vector = _dense(item, row, outputs)
                        comparison.sparse(item, text, vector, references.vectors[item.prompt.name][text])
        return comparison.report(
            sparse=tuple(comparison.sparse_figures.values()),
            **({} if bounds.max_abs is None else {"max_cosine_distance": None, "mean_cosine_distance": None}),
            unit="sparse vectors",
        )


class _Comparison(Comparison):
    """Of sparse vectors."""

    def __init__(self, texts: Sequence[str], bounds: Bounds) -> None:
        super().__init__(texts, bounds)
        self.sparse_figures: dict[str, SparseFigure] = {}

    def sparse(self, signature: SparseSignature, text: int, ours: Array | str, theirs: Array) -> None:
        """Compare a vector with the original's before any number is left out.

        Its numbers must be within the bound of the original's, which is relative for those above 1: a sum over tokens
        grows with them. Of the numbers that one side has and the other has not, each must be so close to 0, or where at
        most so many are kept to the last one that is, that the bound allows either.
        """
        self.seen(signature.name)
        if isinstance(ours, str):
            self.fail(signature.name, text, ours)
            return
        kept, least = _kept(theirs, signature.most)
        bound = self.bounds.max_abs
        if bound is None:
            off = int(np.count_nonzero((ours != 0) != (kept != 0)))
            self._count(signature.name, int(np.count_nonzero(kept)), off)
            self.answer(signature.name, text, ours, kept, cosine=True)
            return
        allowed = bound * np.maximum(1.0, np.abs(theirs))
        one_side = (ours != 0) != (kept != 0)
        # what either side may leave out: what lies at 0 or at the least that is kept
        free = np.abs(np.abs(theirs) - least) <= 2 * allowed if least else np.abs(theirs) <= allowed
        wrong = np.flatnonzero((one_side & ~free) | ((ours != 0) & ~(np.abs(ours - theirs) <= allowed)))
        both = np.where(one_side, 0.0, ours), np.where(one_side, 0.0, kept)
        difference, _ = self._figure(signature.name, *both)
        self.comparisons += 1
        self.max_abs = max(self.max_abs, difference)
        self._count(signature.name, int(np.count_nonzero(kept)), int(np.count_nonzero(one_side)))
        if wrong.size:
            place = int(wrong[0])
            self.fail(
                signature.name,
                text,
                f"number {place} is {ours[place]:.6g} instead of {kept[place]:.6g}, of {wrong.size}",
            )

    def _count(self, name: str, active: int, off: int) -> None:
        before = self.sparse_figures.get(name, SparseFigure(name, 0, 0))
        self.sparse_figures[name] = SparseFigure(name, before.active + active, before.off + off)


def _kept(vector: Array, most: int | None) -> tuple[Array, float]:
    """The vector as the original hands it out, and the least magnitude that it keeps for others' being larger."""
    import torch
    from sentence_transformers.util import select_max_active_dims

    if most is None:
        return vector, 0.0
    kept = np.asarray(select_max_active_dims(torch.from_numpy(vector)[None], most))[0]
    active = np.abs(kept[kept != 0])
    return kept, float(active.min()) if active.size == most else 0.0


def _dense(signature: SparseSignature, row: int, outputs: Arrays) -> Array | str:
    """A row of an answer as float32 ``[dim]``; or what is wrong with the answer itself."""
    if signature.form == DENSE:
        found: Array = outputs[f"{signature.name}/embedding"][row]
        return found if found.shape == (signature.dim,) else f"shape {found.shape} instead of {(signature.dim,)}"
    indices, values = outputs[f"{signature.name}/indices"], outputs[f"{signature.name}/values"]
    if signature.form == FLAT:
        splits = outputs[f"{signature.name}/row_splits"]
        span = slice(int(splits[row]), int(splits[row + 1]))
        indices, values = indices[span], values[span]
        if not values.all():
            return "a value of 0 among those that are active"
    else:
        indices, values = indices[row], values[row]
        active = int(np.count_nonzero(values))
        if indices[active:].any() or values[active:].any():
            return "padding that is not index 0 and value 0 behind what is active"
        indices, values = indices[:active], values[:active]
    if (np.diff(indices) <= 0).any():
        return "indices that do not ascend"
    if signature.most is not None and len(indices) > signature.most:
        return f"{len(indices)} active, more than {signature.most}"
    vector = np.zeros(signature.dim, np.float32)
    vector[indices] = values
    return vector


def _read(first: Any, batch: Asked) -> Iterator[_Answer]:
    """What there is of each text of a batch that went through a model's ``first`` module."""
    if batch.wrote:
        hidden = batch.by_token(batch.wrote[0]["last_hidden_state"])
    else:  # a weight for each token, and no encoder
        weights = first.weight.detach().numpy()
        hidden = [weights[list(row.ids), None] for row in batch.rows]
    for row, states, vector in zip(batch.rows, hidden, batch.answers, strict=True):
        yield _Answer(row.ids, states, vector)
