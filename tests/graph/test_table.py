"""Pooling, dense, normalize, precision, prompts, cuts and quantized vectors go together, whichever are chosen."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from sentence_transformers.util import quantize_embeddings
from support import HIDDEN, TEXTS, largest_difference, sentence_transformer

from toolkit.corpus.calibration import Calibration
from toolkit.encoder.layout import Layout
from toolkit.encoder.precision.mixed import Plan
from toolkit.graph.precision_choice import all_bfloat16, choose_int8
from toolkit.graph.tasks.embed import EmbedSpec
from toolkit.graph.tasks.embed_model import EmbedModel
from toolkit.proof.quantized import compare_quantized
from toolkit.proof.ranges import calibrated_ranges
from toolkit.signatures import QUANTIZED, Views
from toolkit.source.checkpoint import open_checkpoint

POOLINGS = (("mean",), ("cls", "max"), ("weightedmean", "lasttoken"), ("mean_sqrt_len_tokens",))
MODULES = tuple(product((False, True), (False, True), ("float32", "bfloat16")))
INT8 = tuple((*modules, "int8") for modules in product((False, True), (False, True)))
ROWS = tuple((pooling, *modules) for pooling, modules in product(POOLINGS, (*MODULES, *INT8)))
# each pooling meets either value of the other columns, which all meet one another; int8 has a row of everything
FEW = (
    *((pooling, *MODULES[place]) for i, pooling in enumerate(POOLINGS) for place in (i, len(MODULES) - 1 - i)),
    (POOLINGS[0], *INT8[-1]),
)
LEAST_COSINE = 0.97
"""Of int8, which loses more where weights are random and layers small than it does of real ones."""


def encode(model: SentenceTransformer, prompt: str | None, cut: int | None, normalize: bool) -> np.ndarray:
    call = {"query": model.encode_query, "document": model.encode_document}.get(prompt or "", model.encode)
    named = {"prompt_name": prompt} if prompt == "other" else {}
    return np.asarray(call(list(TEXTS), truncate_dim=cut, normalize_embeddings=cut is not None and normalize, **named))


def planned(spec: EmbedSpec, precision: str) -> Plan | None:
    """What an export in that precision computes each product in."""
    if precision == "int8":
        choice = choose_int8(EmbedModel(spec), spec, Calibration("these", TEXTS), TEXTS, 1 - LEAST_COSINE)
        assert choice.plan.int8
        return choice.plan
    return all_bfloat16(spec.encoder) if precision == "bfloat16" else None


@pytest.mark.parametrize(
    ("pooling", "dense", "normalize", "precision"),
    [pytest.param(*row, marks=() if row in FEW else pytest.mark.long) for row in ROWS],
    ids=str,
)
def test_every_prompt_cut_and_kind_equals_the_original(
    tiny_bert: Path, pooling: tuple[str, ...], dense: bool, normalize: bool, precision: str
) -> None:
    heads = [*([Dense(HIDDEN * len(pooling), 20)] if dense else []), *([Normalize()] if normalize else [])]
    original = sentence_transformer(tiny_bert, *heads, pooling=pooling)
    original.prompts = {"query": "find this: ", "passage": "a text: ", "other": "of another kind: "}
    checkpoint = open_checkpoint(original)
    spec = EmbedSpec.read(checkpoint, Views(("query", "document", "other"), (8,), tuple(QUANTIZED)))
    ranges = calibrated_ranges(checkpoint, spec.texts, TEXTS)
    exact = precision == "float32"
    model = EmbedModel(spec, Layout(plan=planned(spec, precision)), ranges=ranges)
    assert len(spec.texts) == 4 * 2 * 5
    floats: dict[str, Any] = {}
    for item in spec.texts:
        ours = model._text_signature(item, tf.constant(TEXTS))["embedding"].numpy()
        theirs = encode(original, item.prompt.name, item.dim if item.cut else None, normalize)
        size = max(1.0, float(np.abs(theirs).max()))
        limits = ranges[item.ranges] if item.ranges else None
        if item.quantized is None:
            floats[item.name] = ours
            if precision == "int8":
                cosines = (ours * theirs).sum(1) / (np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1))
                assert cosines.min() > (LEAST_COSINE if not item.cut else 0.9)
            else:
                assert largest_difference(ours, theirs) < (1e-5 if exact else 0.1) * size
        elif exact:
            for mine, exactly in zip(ours, theirs, strict=True):
                assert compare_quantized(item, mine, exactly, 1e-5 * size, limits)[1] is None
        else:  # bits are those of the vectors that they stand for
            kind: Any = item.quantized
            off = np.abs(ours.astype(int) - quantize_embeddings(floats[item.floats], kind, limits))
            assert np.mean(off > 0) < 0.01
