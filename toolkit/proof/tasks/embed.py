"""The proof of ``embed``: token ids, hidden states, the embedding after each module, every signature's embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.artifact.savedmodel import read_ranges
from toolkit.proof.comparison import HIDDEN_TOLERANCE, Arrays, Bounds, CheckReport, Comparison
from toolkit.proof.proof import Batch, Call, TextProof
from toolkit.proof.quantized import QuantizedFigure, compare_quantized
from toolkit.proof.reference import ReferenceAnswer, reference_answers
from toolkit.proof.similarity import Agreement, agreement
from toolkit.signatures import DEFAULT_SIGNATURE, TextSignature, stamped_text_signatures
from toolkit.source.checkpoint import Checkpoint

__all__ = ["EmbedProof"]

Array = npt.NDArray[Any]

AGAIN = 1e-6
"""How far a float may be from what the same graph gives for it another time."""
VECTORS = (DEFAULT_SIGNATURE, "detailed")

_ALWAYS: tuple[Call, ...] = (("tokenize", None), (DEFAULT_SIGNATURE, None))
_DETAILED: Call = ("detailed", None)
_IN_FIRST_PASS: tuple[Call, ...] = (("embed_tokens", "tokenize"), ("token_embeddings", None), ("stages", None))


class EmbedProof(TextProof):
    """The proof of one artifact."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        folder: Path,
        provenance: Mapping[str, Any] | None,
        texts: Sequence[str] | None,
    ) -> None:
        super().__init__(checkpoint, texts)
        self._ranges = read_ranges(folder)
        self._further = [item for item in stamped_text_signatures(provenance) if item.name != DEFAULT_SIGNATURE]

    def batch(self, rows: Sequence[int], *, first: bool) -> Batch:
        # The intermediate stages are large: looked at in the first pass over the texts only.
        further: list[Call] = [(item.name, None) for item in self._further]
        calls = [*_ALWAYS, _DETAILED, *_IN_FIRST_PASS, *further] if first else list(_ALWAYS)
        if len(rows) == 1 and not first:  # the default signature's graph once more: in the largest batches and alone
            calls.append(_DETAILED)
        return {"inputs": {"text": [self._texts[row] for row in rows]}, "calls": calls}

    def references(self) -> list[ReferenceAnswer]:
        return reference_answers(self._checkpoint, self._texts, self._further)

    def compare(self, references: Sequence[ReferenceAnswer], arrays: Arrays, bounds: Bounds) -> CheckReport:
        comparison = _Comparison(self._texts, bounds, self._ranges)
        for batch, outputs in self.answered(arrays):
            for row, text in enumerate(batch):
                self._compare_row(comparison, row, text, outputs, references[text])
        found = _agreement(comparison.vectors, references)
        return comparison.report(
            neighbours=None if found is None else found.neighbours,
            rank_correlation=None if found is None else found.rank_correlation,
            quantized=tuple(comparison.quantized_figures.values()),
        )

    def _compare_row(
        self, comparison: _Comparison, row: int, text: int, outputs: Arrays, reference: ReferenceAnswer
    ) -> None:
        mask = outputs["tokenize/attention_mask"][row].astype(bool)
        ids = tuple(int(token) for token in outputs["tokenize/input_ids"][row][mask])
        if not comparison.ids(text, ids, reference.input_ids):
            return  # other tokens give another vector: nothing to learn from it
        if "detailed/num_tokens" in outputs:
            count, truncated = int(outputs["detailed/num_tokens"][row]), bool(outputs["detailed/truncated"][row])
            expected = (reference.num_tokens, len(reference.input_ids) < reference.num_tokens)
            if (count, truncated) != expected:
                detail = f"{count}, truncated {truncated} instead of {expected[0]}, {expected[1]}"
                comparison.fail("number of tokens", text, detail)
        first = "embed_tokens/embedding" in outputs
        if first:
            hidden = outputs["token_embeddings/token_embeddings"][row][mask]
            comparison.stage("hidden state", text, hidden, reference.hidden, HIDDEN_TOLERANCE)
            stages = sorted((key for key in outputs if key.startswith("stages/")), key=_stage_number)
            for key, theirs in zip(stages, reference.stages, strict=True):
                comparison.stage(key.removeprefix("stages/"), text, outputs[key][row], theirs)
        for key in (f"{name}/embedding" for name in VECTORS):
            if key in outputs:
                comparison.embedding(text, outputs[key][row], reference.embedding)
        if not first:
            return
        comparison.embedding(text, outputs["embed_tokens/embedding"][row], reference.of_tokens)
        floats = {DEFAULT_SIGNATURE: outputs[f"{DEFAULT_SIGNATURE}/embedding"][row]}
        for item in self._further:
            ours = outputs[f"{item.name}/embedding"][row]
            if item.quantized is None:
                comparison.answer(item.name, text, ours, reference.further[item.name], cosine=True)
                floats[item.name] = ours
            else:  # where floats need not be the original's, bits are those of the artifact's own
                exact = comparison.bounds.max_abs is not None
                comparison.quantized(item, text, ours, reference.further[item.floats] if exact else floats[item.floats])


class _Comparison(Comparison):
    """Of embeddings; those in 256 steps are quantized by ``ranges``."""

    def __init__(self, texts: Sequence[str], bounds: Bounds, ranges: Mapping[str, Array]) -> None:
        super().__init__(texts, bounds, ("token ids", "number of tokens"))
        self.vectors: dict[int, Array] = {}
        self.quantized_figures: dict[str, QuantizedFigure] = {}
        self._ranges = ranges

    def embedding(self, text: int, ours: Array, theirs: Array) -> None:
        """Compare an embedding of the default signature's."""
        self.answer("embedding", text, ours, theirs, cosine=True)
        if ours.shape == theirs.shape:
            self.vectors.setdefault(text, ours)

    def quantized(self, signature: TextSignature, text: int, ours: Array, floats: Array) -> None:
        """Compare a quantized embedding with the floats that it stands for."""
        bound = self.bounds.max_abs if self.bounds.max_abs is not None else AGAIN
        self.seen(signature.name)
        off, wrong = compare_quantized(signature, ours, floats, bound, self._ranges.get(signature.ranges or ""))
        before = self.quantized_figures.get(signature.name, QuantizedFigure(signature.name, 0, 0))
        self.quantized_figures[signature.name] = QuantizedFigure(
            signature.name, before.values + signature.dim, before.off + off
        )
        if wrong is not None:
            self.fail(signature.name, text, wrong)


def _agreement(vectors: dict[int, Array], references: Sequence[ReferenceAnswer]) -> Agreement | None:
    texts = sorted(vectors)
    if not texts:
        return None
    return agreement(np.stack([vectors[text] for text in texts]), np.stack([references[t].embedding for t in texts]))


def _stage_number(key: str) -> int:
    return int(key.removeprefix("stages/").split("_")[0])
