"""The command: what it refuses, what it exits with, what its parts print."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from known import known_server

from toolkit.cli.loadtest import command
from toolkit.errors import InputError
from toolkit.loadtest import Distribution, parse_slo


def cli(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    code = "from toolkit.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "loadtest", *map(str, arguments)], capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give one of --rate"),
        (("--rate", "5", "--callers", "2"), "give one of --rate"),
        (("--rate", "0"), "--rate is 0"),
        (("--steps", "5"), "is not RATE:SECONDS"),
        (("--ramp", "5:10", "--requests", "3"), "--requests goes with"),
        (("--rate", "5", "--slo", "p98=1ms"), "p98=1ms"),
        (("--rate", "5", "--slo", "p99=1"), "p99=1"),
        (("--rate", "5", "--max-lag", "1"), "--max-lag"),
        (("--rate", "5", "--rows", "0"), "--rows"),
        (("--find-max",), "--find-max needs --slo"),
        (("--find-max", "--slo", "p99=1s", "--callers", "3"), "--find-max chooses"),
        (("--rate", "5", "--mix", "a=1"), "either --model or --mix"),
    ],
)
def test_a_wrong_option_is_refused_by_name(options: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(command, ["grpc://localhost:1", "--model", "m", *options])
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)


def test_a_missed_objective_exits_with_1_and_the_report_names_it(tmp_path: Path) -> None:
    with known_server(tmp_path, 0.02) as server:
        result = cli(server.url, "--model", "m", "--rate", "20", "--duration", "2", "--warmup", "0", "--max-lag",
                     "100%", "--slo", "p50=10ms,errors=0%", "--report", tmp_path / "r")  # fmt: skip
    assert result.returncode == 1, result.stderr
    assert "p50=10ms MISSED" in result.stdout
    assert "errors=0% held" in result.stdout
    value = json.loads((tmp_path / "r" / "report.json").read_text())
    assert [item["held"] for item in value["verdict"]] == [False, True]
    page = (tmp_path / "r" / "report.html").read_text()
    assert page.count("<svg") == 4
    assert "prefers-color-scheme: dark" in page


def test_lag_above_its_bound_exits_with_7_and_says_so_loudly(tmp_path: Path) -> None:
    with known_server(tmp_path, 0.0) as server:
        result = cli(server.url, "--model", "m", "--rate", "50", "--duration", "2", "--warmup", "0", "--max-lag",
                     "0%", "--slo", "p50=10ms", "--report", tmp_path / "r")  # fmt: skip
    assert result.returncode == 7, result.stderr
    assert "THE GENERATOR WAS THE LIMIT" in result.stdout


def test_a_token_never_gets_into_the_report(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret-token")
    with known_server(tmp_path, 0.0) as server:
        result = cli(server.url, "--model", "m", "--rate", "20", "--duration", "1", "--warmup", "0", "--token-file",
                     tmp_path / "token", "--metadata", "key=secret-key", "--report", tmp_path / "r")  # fmt: skip
    assert result.returncode in (0, 7), result.stderr
    for name in ("report.json", "report.html"):
        assert "secret-" not in (tmp_path / "r" / name).read_text()


def test_the_load_tester_imports_neither_tensorflow_nor_torch() -> None:
    code = (
        "import sys, toolkit.loadtest, toolkit.loadtest.html, toolkit.loadtest.compare, toolkit.cli.loadtest\n"
        "print({'tensorflow', 'torch', 'transformers'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_objectives_and_distributions_are_read_as_they_are_written() -> None:
    assert [str(item) for item in parse_slo("p99=50ms,errors=0.1%,max=2s,p99.9=900us")] == [
        "p99=50ms",
        "errors=0.1%",
        "max=2000ms",
        "p99.9=0.9ms",
    ]
    assert [str(Distribution.parse(text, "x")) for text in ("8", "1-32", "16:9,256:1")] == ["8", "1-32", "16:9,256:1"]
