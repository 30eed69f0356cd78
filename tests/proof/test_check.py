"""check: equal artifacts pass, and the first stage that diverges is named."""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from support import TEXTS, largest_difference

from toolkit.artifact.savedmodel import read_provenance, write_model
from toolkit.convert import export
from toolkit.corpus.check import check_texts
from toolkit.errors import ArtifactError, CheckError, InputError
from toolkit.graph.tasks import read_spec
from toolkit.graph.tasks.embed_model import EmbedModel
from toolkit.heads.dense import DenseSpec
from toolkit.proof.artifact_runner import run_batches
from toolkit.proof.check import check
from toolkit.proof.comparison import Bounds, _cosine_distance, _largest_difference
from toolkit.source.checkpoint import open_checkpoint


def altered(source: Path, folder: Path, tensor: str, by: float) -> Path:
    """An export of ``source`` in which one tensor was changed after reading: of the encoder, or of the Dense module."""
    spec = read_spec(open_checkpoint(source))
    change = np.random.default_rng(0).standard_normal

    def other(values: np.ndarray) -> np.ndarray:
        return (values + by * change(values.shape)).astype(np.float32)

    if tensor in spec.encoder.tensors:
        tensors = {**spec.encoder.tensors, tensor: other(spec.encoder.tensors[tensor])}
        spec = replace(spec, encoder=replace(spec.encoder, tensors=tensors))
    else:
        heads = [
            replace(head, **{tensor: other(getattr(head, tensor))}) if isinstance(head, DenseSpec) else head
            for head in spec.heads
        ]
        spec = replace(spec, heads=tuple(heads))
    write_model(EmbedModel(spec), folder)
    return folder


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run artifacts in this process: starting one for each of many cases takes minutes."""

    class Here:
        def answers(self, folder: Path, batches: list[Any], progress: object) -> dict[str, np.ndarray]:
            return run_batches(folder, batches)

    monkeypatch.setattr(sys.modules["toolkit.proof.check"], "artifact_process", lambda: nullcontext(Here()))


def test_an_equal_artifact_passes_with_figures_for_every_stage_and_leaves_nothing(
    tiny_export: Path, tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    lying_about: list[Path] = []  # whoever ends the command at this moment leaves it behind
    report = check(
        tiny_export, tiny_source, texts=TEXTS, progress=lambda *_: lying_about.extend(tmp_path.glob("sentence-*"))
    )
    assert report.passed
    assert lying_about == []
    assert report.token_ids_equal
    assert [figure.stage for figure in report.stages] == [
        "hidden state",
        "1_pooling",
        "2_dense",
        "3_normalize",
        "embedding",
    ]
    # the default signature in 3 passes of mixed batches and one alone; detailed in the first, and of every row alone,
    # the one that is left over in batches of 2 among them; embed_tokens in the first
    assert report.comparisons == len(TEXTS) * (4 + 2 + 1) + 1
    report.require_passed()


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("tensor", "stage"),
    [
        pytest.param("embeddings.position_embeddings.weight", "hidden state", marks=pytest.mark.long),
        ("encoder.layer.1.output.dense.bias", "hidden state"),
        pytest.param("bias", "2_dense", marks=pytest.mark.long),
        ("weight", "2_dense"),
    ],
)
def test_a_changed_weight_is_found_at_its_stage(tiny_source: Path, tmp_path: Path, tensor: str, stage: str) -> None:
    folder = altered(tiny_source, tmp_path / "1", tensor, 0.05)
    report = check(folder, tiny_source, texts=TEXTS)
    assert not report.passed
    assert report.token_ids_equal
    assert report.divergence is not None
    assert report.divergence.stage == stage
    with pytest.raises(CheckError, match=f"first at {stage}"):
        report.require_passed()


@pytest.mark.usefixtures("in_process")
def test_another_tokenizer_is_found_at_the_token_ids(tiny_export: Path, tiny_source: Path) -> None:
    model = SentenceTransformer(str(tiny_source), device="cpu")
    model.tokenizer.add_tokens(["production"])
    model[0].auto_model.resize_token_embeddings(len(model.tokenizer))
    report = check(tiny_export, model, texts=TEXTS)
    assert report.divergence is not None
    assert report.divergence.stage == "token ids"
    assert report.divergence.text == TEXTS[2]


@pytest.mark.usefixtures("in_process")
def test_a_different_sequence_length_is_found_at_the_token_ids(tiny_export: Path, tiny_source: Path) -> None:
    model = SentenceTransformer(str(tiny_source), device="cpu")
    model.max_seq_length = 20
    report = check(tiny_export, model, texts=TEXTS)
    assert report.divergence is not None
    assert report.divergence.stage == "token ids"


@pytest.mark.long
def test_an_artifact_with_settings_is_checked_against_the_original_with_the_same(
    tiny_source: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    SentenceTransformer(str(tiny_source), device="cpu", prompts={"q": "find this: "}).save(str(source))
    options: dict[str, Any] = {"truncate_dim": 7, "max_seq_length": 12, "prompt_name": "q"}
    further: dict[str, Any] = {"prompts": ["q"], "quantize": ["binary"]}
    result = export(source, tmp_path, "m", verify=False, batching=None, **options, **further)
    assert (result.spec.dim, result.spec.max_length, result.spec.prompt) == (7, 12, "find this: ")
    provenance = read_provenance(result.path)
    assert provenance is not None
    assert provenance["source"]["settings"] == options
    report = check(result.path, source, texts=TEXTS)
    assert report.passed, report.divergence
    assert {figure.signature for figure in report.quantized} == {"embedding_binary", "embed_q_binary"}
    # encode with these settings is what serving_default answers
    import tensorflow as tf

    model = SentenceTransformer(str(source), device="cpu")
    model.max_seq_length = 12
    expected = model.encode(list(TEXTS), prompt_name="q", truncate_dim=7)
    served = tf.saved_model.load(str(result.path)).signatures["serving_default"](text=tf.constant(TEXTS))["embedding"]
    assert largest_difference(served, expected) < 1e-5


@pytest.mark.usefixtures("in_process")
def test_bounds_decide(tiny_export: Path, tiny_source: Path) -> None:
    report = check(tiny_export, tiny_source, texts=TEXTS, bounds=Bounds(max_abs=0.0, max_cosine_distance=1.0))
    assert not report.passed, "two float32 implementations do not agree to the last bit on all of these texts"
    assert report.divergence is not None


def test_a_damaged_artifact_is_named(tiny_export: Path, tiny_source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "1"
    shutil.copytree(tiny_export, folder)
    data = next((folder / "variables").glob("*.data*"))
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        check(folder, tiny_source, texts=["a"])


def test_a_folder_without_saved_model_is_refused(tmp_path: Path, tiny_source: Path) -> None:
    with pytest.raises(ArtifactError, match="version directory"):
        check(tmp_path, tiny_source)


def test_no_texts_are_refused(tiny_export: Path, tiny_source: Path) -> None:
    with pytest.raises(InputError, match="at least one text"):
        check(tiny_export, tiny_source, texts=[])


def test_differences_of_non_numbers_are_infinite() -> None:
    nan, inf = np.float32("nan"), np.float32("inf")
    assert _largest_difference(np.array([nan, inf]), np.array([nan, inf])) == 0.0
    assert _largest_difference(np.array([nan]), np.array([1.0])) == float("inf")
    assert _largest_difference(np.array([inf]), np.array([-inf])) == float("inf")
    assert _cosine_distance(np.zeros(3), np.zeros(3)) == 0.0
    assert _cosine_distance(np.zeros(3), np.ones(3)) == 1.0


def test_the_corpus_reaches_both_sides_of_the_limit() -> None:
    texts = check_texts(64)
    words = [len(text.split()) for text in texts if set(text.split()) == {"time"}]
    # two special tokens: 62 words fill 64 tokens exactly
    assert {61, 62, 63} <= set(words)
    assert "" in texts
    assert len(texts) == len(set(texts))
