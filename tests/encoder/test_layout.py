"""What an export asks for is one layout or is refused by name; packed weights are for where oneDNN's kernel is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support import bert_without_weights

import toolkit.encoder.layout
from toolkit.encoder.batching_options import Batching
from toolkit.encoder.layout import LARGEST_PACKED, LayoutOptions
from toolkit.encoder.precision.mixed import Plan
from toolkit.encoder.target import CPU, GPU, PACKED_KERNEL
from toolkit.errors import InputError

WIDTH = 8
SPEC = bert_without_weights(WIDTH, tensors={"kernel": np.zeros([WIDTH, WIDTH], np.float32)})


def everything(op: str) -> bool:
    return True


@pytest.fixture(params=[True, False], ids=["a TensorFlow with oneDNN", "one without"])
def onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(toolkit.encoder.layout, "registered", lambda op: request.param)
    return bool(request.param)


def test_by_default_weights_are_packed_where_the_exporting_tensorflow_has_the_kernel(onednn: bool) -> None:
    assert LayoutOptions(everything).layout(SPEC).packed == onednn
    assert not LayoutOptions(everything, optimize="memory").layout(SPEC).packed
    for lower in ("bfloat16", *(["int8"] if onednn else [])):
        assert not LayoutOptions(everything, precision=lower).layout(SPEC).packed


@pytest.mark.parametrize(("flags", "capable"), [("sse avx2", False), ("avx2 avx512f", True), ("avx_ne_convert", True)])
def test_weights_in_bfloat16_are_packed_where_asked_for_and_where_the_processor_proves_it(
    monkeypatch: pytest.MonkeyPatch, flags: str, capable: bool
) -> None:
    monkeypatch.setattr(toolkit.encoder.layout.Path, "is_file", lambda _: True)
    monkeypatch.setattr(toolkit.encoder.layout.Path, "read_text", lambda _: f"flags : {flags}")
    monkeypatch.setattr(toolkit.encoder.layout, "registered", lambda op: True)
    if not capable:
        with pytest.raises(InputError, match="optimize 'latency': in bfloat16 its kernel needs AVX512"):
            LayoutOptions(everything, precision="bfloat16", optimize="latency")
        return
    made = LayoutOptions(everything, precision="bfloat16", optimize="latency").layout(SPEC)
    assert made.packed
    assert made.few
    assert not replace(made, plan=Plan(bfloat16=frozenset({"any"}))).few


def test_weights_in_int8_are_packed_always_and_not_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolkit.encoder.layout, "registered", lambda op: True)
    with pytest.raises(InputError, match="optimize 'latency': not for precision 'int8', whose weights are packed"):
        LayoutOptions(everything, precision="int8", optimize="latency")


def test_what_needs_a_kernel_of_onednn_is_refused_without_it(onednn: bool) -> None:
    for wanted, name in (({"optimize": "latency"}, PACKED_KERNEL), ({"precision": "int8"}, "_QuantizedMatMul")):
        options: Any = wanted
        if onednn:
            LayoutOptions(everything, **options)
            continue
        with pytest.raises(InputError, match=f"TensorFlow at hand has no {name}; builds with oneDNN have it"):
            LayoutOptions(everything, **options)


def test_large_weights_are_packed_on_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolkit.encoder.layout, "registered", everything)
    sized = [np.broadcast_to(np.float32(0), [rows, WIDTH]) for rows in (LARGEST_PACKED // 32, LARGEST_PACKED // 32 + 1)]
    specs = [replace(SPEC, tensors={"kernel": matrix}) for matrix in sized]
    assert [LayoutOptions(everything).layout(spec).packed for spec in specs] == [True, False]
    assert LayoutOptions(everything, optimize="latency").layout(specs[1]).packed


def test_a_server_without_a_kernel_gets_a_graph_without_it() -> None:
    options = LayoutOptions(lambda op: op != PACKED_KERNEL)
    layout = options.layout(SPEC)
    assert (layout.packed, layout.fused_norm) == (False, True)
    with pytest.raises(InputError, match=r"optimize 'latency': needs TF Serving 2\.12 and later"):
        replace(options, optimize="latency")
    assert not LayoutOptions(lambda op: op != "FusedBatchNormV3").layout(SPEC).fused_norm


def test_chunks_of_wide_encoders_are_twice_as_large_in_float32_on_a_cpu() -> None:
    def tokens(size: int, **options: Any) -> tuple[int, int | None]:
        target = LayoutOptions(runs=lambda op: True, **options).layout(bert_without_weights(size)).target
        return target.chunk_tokens, target.part_tokens

    assert tokens(1022) == (CPU.chunk_tokens, CPU.part_tokens)
    assert tokens(1024) == (2 * CPU.chunk_tokens, 2 * CPU.part_tokens)
    assert tokens(1024, precision="bfloat16") == (CPU.chunk_tokens, CPU.part_tokens)
    assert tokens(1024, target="gpu") == (GPU.chunk_tokens, None)


def test_for_a_gpu_there_are_no_kernels_of_onednn() -> None:
    batching = Batching(max_tokens=7)
    layout = LayoutOptions(everything, target="gpu", batching=batching).layout(SPEC)
    assert (layout.target, layout.batching, layout.packed, layout.fused_norm) == (GPU, batching, False, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "tpu"}, "target 'tpu': not supported; supported: cpu, gpu"),
        (
            {"target": "gpu", "precision": "int8"},
            "precision 'int8': not for target 'gpu'; supported there: float32, bfloat16",
        ),
        ({"target": "gpu", "optimize": "latency"}, "optimize 'latency': not for target 'gpu'"),
        ({"optimize": "size"}, "optimize 'size': expected one of latency, memory"),
    ],
)
def test_what_does_not_go_together_is_refused(options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        LayoutOptions(everything, **options)
