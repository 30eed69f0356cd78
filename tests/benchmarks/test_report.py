"""Rates, ratios and tables from known measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.encoders.report import best, plot, rate, ratio, replace_section, section, share_of_peak
from benchmarks.serving import LARGE, report


def measured(name: str, kind: str, precision: str, seconds: list[float], flops: list[float]) -> dict[str, Any]:
    rounds = [
        {"cpu": spent, "wall": 2 * spent, "sentences": 10, "flops": work}
        for spent, work in zip(seconds, flops, strict=True)
    ]
    return {
        "name": name, "title": name, "kind": kind, "precision": precision, "rounds": {"8": rounds},
        "ways": {"8": "groups of 4 rows"}, "error": {"max_abs": 2e-7, "cosine_mean": 1.0, "cosine_min": 0.999999},
    }  # fmt: skip


@pytest.fixture
def results() -> dict[str, Any]:
    work = [100.0, 200.0, 300.0]  # the rounds' texts are of different length
    variants = [
        measured("ours-fp32", "ours", "fp32", [1, 2, 3], work),
        measured("slow", "peer", "fp32", [3, 4, 9], work),
        measured("fast", "peer", "fp32", [2, 4, 60], work),  # one round was disturbed
        measured("gemm-fp32", "gemm", "fp32", [1, 1, 1], [125.0] * 3),
    ]
    return {
        "plan": {"model": "minilm", "texts": "mixed", "cores": 1, "clock": "cpu", "rounds": 3, "sentences": {"8": 10}},
        "about": {"date": "2026-01-01", "machine": "a machine", "versions": "library 1"},
        "variants": {item["name"]: item for item in variants},
    }


def test_a_rate_is_for_texts_of_average_length_and_one_disturbed_round_does_not_change_it(results: Any) -> None:
    assert rate(results, "ours-fp32", 8) == pytest.approx(100 / 20)
    assert rate(results, "fast", 8) == pytest.approx(50 / 20)
    assert rate(results, "ours-fp32", 8, "wall") == pytest.approx(50 / 20)


def test_a_ratio_compares_the_same_texts(results: Any) -> None:
    assert ratio(results, "ours-fp32", "slow", 8) == 3
    assert ratio(results, "ours-fp32", "fast", 8) == 2
    assert ratio(results, "slow", "ours-fp32", 8) == pytest.approx(1 / 3)


def test_the_best_peer_is_the_fastest_and_there_may_be_none(results: Any) -> None:
    assert best(results, "peer", "fp32", 8) == "fast"
    assert best(results, "peer", "int8", 8) is None


def test_the_share_of_the_peak_counts_operations(results: Any) -> None:
    assert share_of_peak(results, "ours-fp32", 8) == pytest.approx(100 / 125)
    del results["variants"]["gemm-fp32"]
    assert share_of_peak(results, "ours-fp32", 8) is None


def test_the_section_shows_rates_ratios_with_aims_and_how_peers_sorted(results: Any, tmp_path: Path) -> None:
    lines = list(section(results))
    assert "| ours-fp32 | 5.00 | 80% | 2.0e-07 | 1.000000 0.999999 |" in lines
    assert "| ours-fp32 / best sorted fp32 peer | 2.00 (1.4) |" in lines
    assert not any("bf16 /" in line for line in lines)  # nothing of the kind was measured
    assert "- fast: batch 8: groups of 4 rows" in lines
    plot(results, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    results["plan"]["texts"] = "512-token"
    assert "| ours-fp32 / best sorted fp32 peer | 2.00 (1.1) |" in list(section(results))


def test_a_section_of_a_document_is_replaced_and_nothing_else() -> None:
    document = "before\n<!-- x -->\nold\n<!-- /x -->\nafter\n"
    replaced = replace_section(document, "x", ["new", "lines", ""])
    assert replaced == "before\n<!-- x -->\nnew\nlines\n<!-- /x -->\nafter\n"
    assert replace_section(replaced, "x", ["new", "lines"]) == replaced
    with pytest.raises(ValueError, match="no <!-- y -->"):
        replace_section(document, "y", [])


def test_the_serving_table_compares_with_large_requests() -> None:
    def load(texts: int, p50: float, server_cpu: float) -> list[dict[str, float]]:
        one = {"texts": texts, "seconds": 1, "p50": p50, "p95": p50, "p99": p50, "server_cpu": server_cpu}
        return [{**one, "client_cpu": server_cpu / 3}] * 3

    plain = {"1 callers": load(100, 0.010, 1), "16 callers": load(120, 0.1, 1), LARGE: load(200, 1, 1)}
    batching = {"1 callers": load(90, 0.0125, 1), "16 callers": load(180, 0.1, 1), LARGE: load(200, 1, 1)}
    about = {"date": "2026-01-01", "cores": 1, "set": "mixed", "rounds": 3}
    results = {"m, embedded server": plain, "m, embedded server, row batching": batching}
    lines = list(report({"about": about, "results": results}))
    assert "| m, embedded server, row batching | 1 caller | 90 | 0.45 | 0.45 |" in lines[-3]
    assert lines[-3].endswith("| 25% | 2.50 |")
    assert "| 16 callers | 180 | 0.90 | 0.90 | 100.0 |" in lines[-2]
