"""In bfloat16 and int8 every task's answers are as close to the original's as its own measure asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from classifier_models import PAIRS, save_classifier
from multi_vector_support import multi_vector_encoder
from sentence_transformers import CrossEncoder
from sparse_support import inference_free, save_masked_bert, splade_model
from support import save_bert

from toolkit.convert import export
from toolkit.encoder.layout import Layout
from toolkit.encoder.precision.mixed import Plan
from toolkit.errors import CheckError, InputError
from toolkit.graph.precision_choice import all_bfloat16, choose_int8
from toolkit.graph.spec import TaskSpec
from toolkit.graph.tasks import read_spec, serving_model
from toolkit.proof.check import check
from toolkit.proof.comparison import Bounds
from toolkit.proof.precision import Precision, stamped_bounds
from toolkit.source.checkpoint import open_checkpoint

TEXTS = ["hello world", "a much longer sentence about the latency of embedding models", "short", "word " * 30]
ALLOWED = {"bfloat16": 0.03, "int8": 0.1}
"""Of tiny models with random weights, which lose more than real ones."""

each_precision = pytest.mark.parametrize("precision", ["bfloat16", "int8"])


def plan_of(spec: TaskSpec, precision: str) -> Plan:
    if precision == "bfloat16":
        return all_bfloat16(spec.encoder)
    choice = choose_int8(serving_model(spec), spec, spec.calibration(), spec.check_rows(), ALLOWED[precision])
    assert choice.plan.int8
    return choice.plan


def served(spec: TaskSpec, precision: str, name: str, **columns: list[str]) -> dict[str, Any]:
    """What a signature answers, in a graph of its own."""
    model = serving_model(spec, Layout(plan=plan_of(spec, precision)))
    function = tf.function(model.functions()[name], autograph=False)
    found = function(*(tf.constant([text.encode() for text in column]) for column in columns.values()))
    return {key: value.numpy() for key, value in found.items()}


def smallest_cosine(ours: Any, theirs: Any) -> float:
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(np.min((ours * theirs).sum(1) / norms))


@each_precision
def test_scores_differ_by_little(tmp_path: Path, precision: str) -> None:
    original = CrossEncoder(str(save_classifier(tmp_path)), device="cpu")
    spec = read_spec(open_checkpoint(original))
    assert spec.precisions == ("float32", "bfloat16", "int8")
    queries, documents = (list(column) for column in zip(*PAIRS, strict=True))
    ours = served(spec, precision, "rerank", query=queries, document=documents)["score"]
    difference = np.abs(ours - original.predict(PAIRS)).max()
    assert 1e-5 < difference <= ALLOWED[precision]


@each_precision
def test_sparse_vectors_keep_their_direction(tmp_path: Path, precision: str) -> None:
    original = splade_model(save_masked_bert(tmp_path))
    spec = read_spec(open_checkpoint(original))
    ours = served(spec, precision, "sparse_dense", text=TEXTS)["embedding"]
    theirs = original.encode(TEXTS, convert_to_sparse_tensor=False).numpy()
    assert 1 - ALLOWED[precision] <= smallest_cosine(ours, theirs) < 1 - 1e-7


@each_precision
def test_every_tokens_vector_keeps_its_direction(tmp_path: Path, precision: str) -> None:
    original = multi_vector_encoder(save_bert(tmp_path))
    spec = read_spec(open_checkpoint(original))
    ours = served(spec, precision, "multi_vector_document", text=TEXTS)["values"]
    theirs = np.concatenate(original.encode_document(TEXTS, convert_to_numpy=True))
    assert 1 - ALLOWED[precision] <= smallest_cosine(ours, theirs) < 1 - 1e-7


@pytest.mark.long
@each_precision
@pytest.mark.parametrize("task", ["sparse", "multi_vector"])
def test_an_export_of_vectors_is_held_to_its_bound(tmp_path: Path, task: str, precision: str) -> None:
    if task == "sparse":
        original: Any = inference_free(save_masked_bert(tmp_path))
    else:
        original = multi_vector_encoder(save_bert(tmp_path))
    bound = 1 - ALLOWED[precision]
    found = export(original, tmp_path / "models", "m", precision=precision, min_cosine=bound, tokenizer_sample=0.01)
    assert found.report is not None
    assert found.report.passed
    names = {item.name for item in found.spec.signatures if not item.name.startswith("tokenize")}
    assert names <= {figure.stage for figure in found.report.stages}
    again = check(found.path, original, texts=TEXTS)
    assert again.passed
    assert again.bounds == found.report.bounds


def test_a_difference_of_scores_that_is_out_of_reach_is_said(tmp_path: Path) -> None:
    spec = read_spec(open_checkpoint(CrossEncoder(str(save_classifier(tmp_path)), device="cpu")))
    with pytest.raises(CheckError, match=r"max_difference 1e-06 is out of reach: .* largest difference over 2 pairs"):
        choose_int8(serving_model(spec), spec, spec.calibration(), spec.check_rows()[:2], 1e-6)


def test_the_bound_of_scores_is_stamped_and_read_back() -> None:
    wanted = Precision("int8", max_difference=0.25)
    bounds = stamped_bounds({"precision": wanted.stamp(scores=True)})
    assert bounds == Bounds(max_abs=0.25, relative=True)
    ours, theirs = np.array([8.0, 0.5]), np.array([10.0, 0.3])
    assert bounds.allows(ours, theirs)
    assert not Bounds(max_abs=0.25).allows(ours, theirs)
    assert stamped_bounds({"precision": Precision("bfloat16").stamp(scores=True)}).max_abs == 0.02
    with pytest.raises(InputError, match="max_difference: this model gives vectors"):
        wanted.require_fit(scores=False)
