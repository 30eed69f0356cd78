"""No request ends the process that runs an artifact, whatever runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow as tf
from classifier_models import save_classifier
from fusion_support import needs_onednn
from marks import long

from toolkit.artifact.inspection import inspect
from toolkit.artifact.savedmodel import write_model
from toolkit.corpus.calibration import built_in_texts
from toolkit.encoder.batching_options import Batching
from toolkit.encoder.layout import Layout
from toolkit.encoder.precision.mixed import Plan
from toolkit.graph import model as model_module
from toolkit.graph.precision_choice import choose_int8
from toolkit.graph.tasks import read_spec
from toolkit.graph.tasks.embed import EmbedSpec
from toolkit.graph.tasks.embed_model import EmbedModel
from toolkit.graph.tasks.rerank_model import RerankModel
from toolkit.source.checkpoint import open_checkpoint
from toolkit.tokenizer import Engine

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def spec(tiny_source: Path) -> EmbedSpec:
    return read_spec(open_checkpoint(tiny_source))


def survive(*arguments: Path | str) -> None:
    """The process of ``wrong_requests`` ends well."""
    paths = os.pathsep.join([str(TESTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.run(
        [sys.executable, str(TESTS / "wrong_requests.py"), *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert process.returncode == 0, (process.returncode, process.stdout[-300:], process.stderr[-3000:])


@pytest.mark.parametrize("kind", ["unigram", *long("bpe", "wordpiece")])
def test_no_request_ends_the_process_with_any_kind_of_tokenizer(of_kind: Callable[[str], Path], kind: str) -> None:
    survive(of_kind(kind) / "1")


@pytest.mark.long
def test_no_request_ends_the_process_that_scores_pairs(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_classifier(tmp_path))
    write_model(RerankModel(read_spec(checkpoint), Layout(batching=Batching())), tmp_path / "1")
    survive("--pairs", tmp_path / "1")


@pytest.mark.long
def test_no_request_ends_the_process_with_an_engine_of_tensorflow_text(spec: EmbedSpec, tmp_path: Path) -> None:
    engines: tuple[Engine, ...] = ("BertTokenizer", "FastBertTokenizer")
    for engine in engines:
        write_model(EmbedModel(spec, Layout(tokenizer_engine=engine)), tmp_path / engine)
    survive(*(tmp_path / engine for engine in engines))


@pytest.mark.long
@needs_onednn
def test_no_request_ends_the_process_in_fewer_bits(spec: EmbedSpec, tmp_path: Path) -> None:
    bfloat16 = Plan(bfloat16=frozenset(spec.encoder.product_names()))
    int8 = choose_int8(EmbedModel(spec), spec, built_in_texts(48), ["hello world"], 0.5).plan
    write_model(EmbedModel(spec, Layout(plan=bfloat16)), tmp_path / "bfloat16")
    write_model(EmbedModel(spec, Layout(batching=Batching(), plan=int8)), tmp_path / "int8")
    survive(tmp_path / "bfloat16", tmp_path / "int8")


def test_a_column_of_texts_is_answered_as_its_texts(tiny_export: Path) -> None:
    function = tf.saved_model.load(str(tiny_export)).signatures["detailed"]
    column, row = function(text=tf.constant([["a b"], ["c"]])), function(text=tf.constant(["a b", "c"]))
    for name, value in row.items():
        assert column[name].numpy().tolist() == value.numpy().tolist()


def test_inspect_tells_which_artifacts_refuse_wrong_shapes(
    spec: EmbedSpec, tiny_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert inspect(tiny_export).guarded
    monkeypatch.setattr(model_module, "guarded", lambda function, inputs: function)
    write_model(EmbedModel(spec), tmp_path / "1")
    assert not inspect(tmp_path / "1").guarded
