"""Exports in bfloat16 and int8: which kernels they run, how close they are, and what is stamped and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from fusion_support import LAYERS, PATHS, needs_onednn, optimized_ops
from marks import long
from support import TEXTS, largest_difference

from toolkit.artifact.inspection import inspect
from toolkit.artifact.savedmodel import read_provenance, write_model
from toolkit.convert import export
from toolkit.corpus.calibration import built_in_texts
from toolkit.corpus.check import check_texts
from toolkit.encoder.layout import Layout, runs_packed_bfloat16
from toolkit.encoder.precision.mixed import Plan
from toolkit.errors import CheckError, InputError
from toolkit.graph.precision_choice import _Laboratory, choose_int8
from toolkit.graph.tasks import read_spec
from toolkit.graph.tasks.embed import EmbedSpec
from toolkit.graph.tasks.embed_model import EmbedModel
from toolkit.proof.check import check
from toolkit.proof.comparison import Bounds
from toolkit.source.checkpoint import open_checkpoint

pytestmark = needs_onednn

BFLOAT16_COSINE, INT8_COSINE = 0.9995, 0.97
"""Weights of tiny models are random and their layers small, so that they lose more than real ones."""


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("calibration") / "texts.txt"
    file.write_text("\n".join(built_in_texts(48).texts), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def exported(tiny_source: Path, calibration: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The version directory of ``tiny_source`` in a precision, exported and checked once."""
    models = tmp_path_factory.mktemp("models")
    done: dict[str, Path] = {}

    def get(precision: str) -> Path:
        if precision not in done:
            options: dict[str, Any] = {"precision": precision, "tokenizer_sample": 0.01}
            options["quantize"] = ["binary"] if precision == "bfloat16" else []
            options["min_cosine"] = {"bfloat16": BFLOAT16_COSINE, "int8": INT8_COSINE}[precision]
            if precision == "int8":
                options["calibration"] = calibration
            done[precision] = export(tiny_source, models, precision, **options).path
        return done[precision]

    return get


def serving(folder: Path) -> Callable[[list[str]], Any]:
    loaded = tf.saved_model.load(str(folder))
    return lambda texts: (loaded, loaded.signatures["serving_default"](text=tf.constant(texts))["embedding"].numpy())[1]


@pytest.mark.long
def test_quantized_vectors_are_held_to_the_artifacts_own_floats(exported: Callable[[str], Path]) -> None:
    provenance = read_provenance(exported("bfloat16"))
    assert provenance is not None
    (figure,) = provenance["check"]["quantized"]
    assert figure["signature"] == "embedding_binary"
    assert figure["off"] <= figure["values"] / 1000
    assert provenance["check"]["max_abs"] > 1e-4, "the floats are not the original's"


def spec_of(source: Path) -> EmbedSpec:
    return read_spec(open_checkpoint(source))


def test_bfloat16_runs_fused_bfloat16_kernels(tiny_source: Path, tmp_path: Path) -> None:
    plan = Plan(bfloat16=frozenset(spec_of(tiny_source).encoder.product_names()))
    write_model(EmbedModel(spec_of(tiny_source), Layout(plan=plan)), tmp_path / "1")
    ops = optimized_ops(tmp_path / "1", with_types=True)
    assert ops["_MklNativeFusedMatMul[BiasAdd]:bfloat16"] == 3 * LAYERS * PATHS
    assert ops["_MklNativeFusedMatMul[BiasAdd,GeluExact]:bfloat16"] == LAYERS * PATHS
    assert ops["_MklFusedBatchMatMulV2[Mul,Add]:bfloat16"] == LAYERS * PATHS
    assert ops["_MklSoftmax:bfloat16"] == LAYERS * PATHS
    assert ops["_MklBatchMatMulV2:bfloat16"] == LAYERS * PATHS
    assert not {name for name in ops if name.startswith(("MatMul", "BatchMatMul", "Erf"))}


@pytest.mark.skipif(not runs_packed_bfloat16(), reason="this processor has no AVX512")
def test_bfloat16_for_latency_runs_as_many_kernels_that_keep_their_weights(tiny_source: Path, tmp_path: Path) -> None:
    plan = Plan(bfloat16=frozenset(spec_of(tiny_source).encoder.product_names()))
    write_model(EmbedModel(spec_of(tiny_source), Layout(plan=plan, packed=True)), tmp_path / "1")
    ops = optimized_ops(tmp_path / "1", with_types=True)
    assert ops["_MklNativeFusedMatMul[BiasAdd]:packed:bfloat16"] == 3 * LAYERS * PATHS
    assert ops["_MklNativeFusedMatMul[BiasAdd,GeluExact]:packed:bfloat16"] == LAYERS * PATHS
    assert not {name for name in ops if name.startswith(("MatMul", "BatchMatMul", "Erf"))}


def test_int8_runs_one_kernel_a_product_with_what_follows_it(tiny_source: Path, tmp_path: Path) -> None:
    spec = spec_of(tiny_source)
    choice = choose_int8(EmbedModel(spec), spec, built_in_texts(48), ["hello world"], 0.5)
    assert not choice.plan.bfloat16
    write_model(EmbedModel(spec, Layout(plan=choice.plan)), tmp_path / "1")
    ops = optimized_ops(tmp_path / "1")
    assert ops["_QuantizedMatMul[BiasAdd,Dequantize]"] == LAYERS * PATHS
    assert ops["_QuantizedMatMul[BiasAdd,Add,Dequantize]"] == 2 * LAYERS * PATHS
    # the activation goes to the next product as uint8: nothing quantizes it, and its outliers are made by themselves
    assert ops["_QuantizedMatMul[BiasAdd,GeluExact,Requantize]"] == LAYERS * PATHS
    assert ops["_MklQuantizeV2"] == 3 * LAYERS * PATHS
    assert ops["_MklNativeFusedMatMul[BiasAdd,Add]"] + ops["_FusedMatMul[BiasAdd,Add]"] == LAYERS * PATHS


def test_an_activation_handed_over_as_uint8_is_what_quantizing_it_gives(tiny_source: Path) -> None:
    spec = spec_of(tiny_source)
    plan = choose_int8(EmbedModel(spec), spec, built_in_texts(48), ["hello world"], 0.5).plan
    assert [name for name, numbers in plan.int8.items() if numbers.handover] == [
        f"layer_{layer}/output" for layer in range(LAYERS)
    ]
    apart = Plan(int8={name: replace(numbers, handover=None) for name, numbers in plan.int8.items()})
    texts = check_texts(48)[:40]
    laboratory = _Laboratory(EmbedModel(spec), spec, spec.encoder.parameters(), texts)
    handed, quantized = laboratory._answers(plan, False), laboratory._answers(apart, False)
    # Outliers are computed of floats, not of what int8 made of them: closer, but not the same.
    assert largest_difference(handed, quantized) < 0.02
    assert abs(laboratory.loss(plan) - laboratory.loss(apart)) < 0.003


@pytest.mark.parametrize(("precision", "cosine"), [("bfloat16", BFLOAT16_COSINE), ("int8", INT8_COSINE)])
def test_an_export_is_within_its_bound_and_says_how_close_it_is(
    exported: Callable[[str], Path], precision: str, cosine: float
) -> None:
    provenance = read_provenance(exported(precision))
    assert provenance is not None
    stamp, report = provenance["precision"], provenance["check"]
    assert provenance["model"]["precision"] == stamp["name"] == precision
    assert stamp["min_cosine"] == cosine
    assert report["passed"]
    assert 0 < report["mean_cosine_distance"] <= report["max_cosine_distance"] <= 1 - cosine
    assert report["max_abs"] > 0
    assert 0.8 < report["neighbours"] <= 1
    assert 0.9 < report["rank_correlation"] <= 1
    names = [name for names in stamp["products"].values() for name in names]
    assert sorted(names) == sorted(f"layer_{i}/{p}" for i in range(LAYERS) for p in PRODUCTS)
    json.dumps(provenance, allow_nan=False)


PRODUCTS = ("qkv", "attention_output", "intermediate", "output")


def test_int8_stamps_what_it_was_calibrated_on(exported: Callable[[str], Path], calibration: Path) -> None:
    provenance = read_provenance(exported("int8"))
    assert provenance is not None
    stamp = provenance["precision"]
    assert stamp["products"]["int8"]
    assert stamp["calibration"]["source"] == str(calibration)
    assert stamp["calibration"]["texts"] == len(built_in_texts(48).texts)
    assert stamp["calibration"]["sha256"] == built_in_texts(48).digest


def test_an_artifact_of_lower_precision_is_smaller_and_names_its_servers(exported: Callable[[str], Path]) -> None:
    assert inspect(exported("bfloat16")).releases.because == ("FusedBatchNormV3",)
    found = inspect(exported("int8"))
    assert found.releases.since == "2.17"
    assert found.releases.because == ("FusedBatchNormV3", "_QuantizedMatMul")


@pytest.mark.parametrize("precision", ["int8", *long("bfloat16")])
def test_check_asks_for_the_bound_an_artifact_was_exported_with(
    exported: Callable[[str], Path], tiny_source: Path, precision: str
) -> None:
    assert check(exported(precision), tiny_source, texts=TEXTS).passed
    report = check(exported(precision), tiny_source, texts=TEXTS, bounds=Bounds())
    assert report.divergence is not None


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_a_row_does_not_depend_on_its_neighbours(exported: Callable[[str], Path], precision: str) -> None:
    embed = serving(exported(precision))
    alone = np.concatenate([embed([text]) for text in TEXTS])
    for copies in (1, 3, 40):
        many = embed(list(TEXTS) * copies)
        # Products have fixed ranges; what is left is float32's order of addition, now and then across a rounding step.
        assert largest_difference(many, np.tile(alone, (copies, 1))) < 5e-3


def test_products_that_lose_most_are_computed_in_bfloat16_until_the_cosine_is_met(tiny_source: Path) -> None:
    spec = spec_of(tiny_source)
    model, texts = EmbedModel(spec), check_texts(48)
    loose = choose_int8(model, spec, built_in_texts(48), texts, 0.5)
    assert len(loose.plan.int8) == 4 * LAYERS
    assert not loose.losses
    # How much is lost depends on the random weights: half-way between all products in int8 and all in bfloat16.
    laboratory = _Laboratory(model, spec, spec.encoder.parameters(), texts)
    coarse, fine = laboratory.loss(loose.plan), laboratory.loss(Plan(frozenset(loose.plan.int8)))
    assert coarse > fine
    strict = choose_int8(model, spec, built_in_texts(48), texts, (coarse + fine) / 2)
    assert strict.plan.bfloat16
    assert strict.plan.bfloat16 | set(strict.plan.int8) == set(loose.plan.int8)
    kept, left = strict.plan.int8, strict.plan.bfloat16
    assert max((strict.losses[name] for name in kept), default=0) <= min(strict.losses[name] for name in left)


@pytest.mark.parametrize(
    ("precision", "words"),
    [("int8", "out of reach"), pytest.param("bfloat16", "cosine distance", marks=pytest.mark.long)],
)
def test_a_cosine_that_cannot_be_met_is_refused_and_nothing_is_left(
    tiny_source: Path, tmp_path: Path, precision: str, words: str
) -> None:
    with pytest.raises(CheckError, match=words):
        export(tiny_source, tmp_path / "models", "x", precision=precision, min_cosine=0.9999999, tokenizer_sample=0.001)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "float16"}, "precision 'float16': not supported; supported: float32, bfloat16, int8"),
        ({"min_cosine": 0.9}, "min_cosine: is for bfloat16 and int8"),
        ({"precision": "int8", "min_cosine": 1.0}, "min_cosine 1.0: expected"),
        ({"precision": "bfloat16", "calibration": "texts.txt"}, "calibration: is for int8"),
        ({"precision": "int8", "calibration": "/nowhere/texts.txt"}, "calibration file /nowhere/texts.txt"),
    ],
    ids=str,
)
def test_options_that_are_not_usable_are_refused_before_anything_is_read(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        export(tmp_path / "no source", tmp_path / "models", "x", **options)
    assert not (tmp_path / "models").exists()


@pytest.mark.long
@pytest.mark.real_model
def test_the_real_minilm_in_int8_keeps_a_cosine_of_0_98_with_every_product_in_int8(minilm: Path) -> None:
    spec = spec_of(minilm)
    texts = [*check_texts(64)[:60], "A text of which nobody has thought before, about quarks, leeks and taxes."]
    choice = choose_int8(EmbedModel(spec), spec, built_in_texts(64), texts, 1 - 0.98)
    assert not choice.plan.bfloat16
