"""The proof of ``rerank``: token ids and types of pairs, scores before and behind their activation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from toolkit.corpus.check import as_pair, as_row, check_pairs
from toolkit.proof.comparison import Arrays, Bounds, CheckReport, Comparison
from toolkit.proof.original import BATCH, Asked, asked_once, told_of
from toolkit.proof.proof import Batch, Call, TaskProof
from toolkit.signatures import DEFAULT_SIGNATURE, PairSignature, stamped_pair_signatures
from toolkit.source.checkpoint import Checkpoint

__all__ = ["PairAnswer", "RerankProof"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class PairAnswer:
    """One pair through the original: token ids and types after the cut, float32 ``logits`` ``[labels]``, and what
    ``predict`` gives for each signature, ``[]`` or ``[labels]``."""

    input_ids: tuple[int, ...]
    type_ids: tuple[int, ...]
    logits: Array
    scores: Mapping[str, Array]


class _Answer(NamedTuple):
    """What the original makes of one pair by default."""

    ids: tuple[int, ...]
    types: tuple[int, ...]
    logits: Array
    score: Array


class RerankProof(TaskProof):
    """The proof of one artifact. Texts of a caller's own are a query, a tab and a document each."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        folder: Path,
        provenance: Mapping[str, Any] | None,
        texts: Sequence[str] | None,
    ) -> None:
        self._checkpoint = checkpoint
        self._signed = stamped_pair_signatures(provenance)
        length = checkpoint.tokenizer.max_length or 512
        self._pairs = check_pairs(length) if texts is None else [as_pair(text) for text in texts]
        super().__init__(len(self._pairs))

    def batch(self, rows: Sequence[int], *, first: bool) -> Batch:
        calls: list[Call] = [("tokenize_pairs", None), (self._signed[0].name, None)]
        if first:
            calls += [(DEFAULT_SIGNATURE, None), ("stages", None), *((item.name, None) for item in self._signed[1:])]
        queries, documents = zip(*(self._pairs[row] for row in rows), strict=True)
        return {"inputs": {"query": list(queries), "document": list(documents)}, "calls": calls}

    def references(self) -> list[PairAnswer]:
        with told_of(self._checkpoint, "score the pairs"):
            return self._answers()

    def _answers(self) -> list[PairAnswer]:
        default, *further = self._signed
        answers = self._by_default()
        own = np.stack([answer.score for answer in answers])
        given = self._checkpoint.answers[None](self._pairs) if None in self._checkpoint.answers else own
        scores = {default.name: given, **{item.name: self._predicted(item, self._pairs) for item in further}}
        return [
            PairAnswer(answer.ids, answer.types, answer.logits, {name: found[pair] for name, found in scores.items()})
            for pair, answer in enumerate(answers)
        ]

    def _by_default(self) -> list[_Answer]:
        model: Any = self._checkpoint.reference
        return asked_once(
            self._pairs,
            tokens=lambda batch: model.preprocess(batch, prompt=self._checkpoint.prompt or None),
            answers=lambda batch: self._predicted(self._signed[0], batch),
            first=model[0],
            modules=[list(model)[-1]],
            read=self._read,
        )

    def _read(self, batch: Asked) -> Iterator[_Answer]:
        logits = batch.by_row(batch.wrote[-1]["scores"])
        for row, found, score in zip(batch.rows, logits, batch.answers, strict=True):
            types = row.types if self._checkpoint.token_types else (0,) * len(row.types)
            yield _Answer(row.ids, types, found, score)

    def _predicted(self, item: PairSignature, pairs: Sequence[tuple[str, str]]) -> Array:
        """What users of sentence-transformers get."""
        model: Any = self._checkpoint.reference
        options = {"batch_size": BATCH, "show_progress_bar": False}
        return np.asarray(model.predict(pairs, prompt_name=item.prompt.name, **options))

    def compare(self, references: Sequence[PairAnswer], arrays: Arrays, bounds: Bounds) -> CheckReport:
        shown = [as_row(*pair) for pair in self._pairs]
        comparison = Comparison(shown, bounds, ("token ids", "token types"))
        for batch, outputs in self.answered(arrays):
            for row, pair in enumerate(batch):
                self._compare_row(comparison, row, pair, outputs, references[pair])
        return comparison.report(max_cosine_distance=None, mean_cosine_distance=None, unit="scores")

    def _compare_row(self, comparison: Comparison, row: int, pair: int, outputs: Arrays, reference: PairAnswer) -> None:
        mask = outputs["tokenize_pairs/attention_mask"][row].astype(bool)
        ids, types = (tuple(outputs[f"tokenize_pairs/{name}"][row][mask].tolist()) for name in _COLUMNS)
        if not comparison.ids(pair, ids, reference.input_ids):
            return  # other tokens give another score: nothing to learn from it
        if types != reference.type_ids:
            comparison.fail("token types", pair, f"{types} instead of {reference.type_ids}")
        for key in [key for key in outputs if key.startswith("stages/")]:  # one, behind the encoder's head
            comparison.stage(key.removeprefix("stages/"), pair, outputs[key][row], reference.logits)
            default = reference.scores[self._signed[0].name]
            comparison.answer(DEFAULT_SIGNATURE, pair, outputs[f"{DEFAULT_SIGNATURE}/score"][row], default)
        for item in self._signed:
            if f"{item.name}/score" in outputs:
                ours = outputs[f"{item.name}/score"][row]
                comparison.answer(item.name, pair, ours, reference.scores[item.name])


_COLUMNS = ("input_ids", "token_type_ids")
