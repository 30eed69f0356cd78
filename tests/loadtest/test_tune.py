"""Tuning finds the settings that hold the most, on copies, goes on where it was cut off, and writes settings back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from support import save_bert, sentence_transformer

from toolkit.cli import cli
from toolkit.convert import export
from toolkit.deploy.tuned import candidate_batching, cpu_target, tuned_files
from toolkit.errors import GeneratorError, InputError, ServerError
from toolkit.loadtest import Settings, Target, constant, judge, parse_slo
from toolkit.loadtest.local_server import LocalServers, batching_in_graph, split_cpus
from toolkit.loadtest.measure import Measured, Recorder
from toolkit.loadtest.metrics import ServerFigures, ServerPoint
from toolkit.loadtest.records import make_records
from toolkit.loadtest.report import SCHEMA, Generator, LagVerdict, Report, environment
from toolkit.loadtest.tune import Candidate, State, Tried, Tuning, open_state, question_of, sweeps, tune
from toolkit.version_folder import VersionFolder

BEGIN = Candidate("graph", 2, 1, 1024, 0)
SETTINGS = Settings("grpc://localhost", (Target("m"),), constant(10, 2), objectives=parse_slo("p99=50ms"))
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class FakeServer:
    url: str
    metrics_url: str = "http://localhost/metrics"
    pid: int = 4711

    def peak_memory(self) -> int:
        return 500 << 20


@cache
def measured_in(seconds: float) -> Measured:
    at = np.arange(2000) / 1000
    recorder = Recorder(0.0, 2.0)
    recorder.add(make_records(at, at, at + seconds))
    return recorder.result()


class FakeMachine:
    """Servers that hold a rate which their settings decide, as if a load test had found out."""

    def __init__(self, fails: tuple[Candidate, ...] = (), lag: float = 0.0) -> None:
        self.served: list[Candidate] = []
        self.trials = 0
        self.fails, self.lag = fails, lag
        self.budget: threading.Event | None = None  # set: the next trial takes all that is left of it

    def capacity(self, candidate: Candidate) -> float:
        return 100.0 + 40 * (candidate.size == 2048) + 30 * (candidate.wait_micros == 500) + 10 * candidate.threads

    @contextmanager
    def serve(self, candidate: Candidate) -> Iterator[FakeServer]:
        if candidate in self.fails:
            raise ServerError("no memory")
        self.served.append(candidate)
        yield FakeServer(f"grpc://{self.capacity(candidate)}")

    def trial(self, settings: Settings, stop: threading.Event | None = None) -> Report:
        self.trials += 1
        rate = settings.load.segments[0].first  # type: ignore[union-attr]
        slow = rate > float(settings.url.removeprefix("grpc://"))
        measured = measured_in(0.2 if slow else 0.01)
        stopped = None
        if self.budget is not None and stop is not None:
            stop.wait(30)
            stopped = "interrupted"
        # a server's page does not tell CPU: only a look at its process does
        cpu = 1.5 if settings.server_pid == FakeServer.pid else None
        whole = ServerPoint(2.0, None, None, None, None, None, None, cpu, None)
        return Report(
            SCHEMA, settings.url, ("m",), "", {"kind": "poisson"}, "", settings.as_json(), environment(),
            Generator(1, 0.0, 0), measured, LagVerdict(0.01, self.lag, "p99", self.lag <= 0.01),
            ServerFigures(settings.metrics_url, whole, (), 0),
            judge(measured, settings.objectives), stopped,
        )  # fmt: skip


def state(folder: Path, **more: Any) -> State:
    return open_state(folder, "abc", question_of(SETTINGS, **more))


def tuned(folder: Path, machine: FakeMachine, begin: Candidate = BEGIN, **options: Any) -> Tuning:
    return tune(state(folder), begin, 2, SETTINGS, machine.serve, start=50.0, trial=machine.trial, **options)


def test_the_best_of_every_axis_is_found_and_no_candidate_is_measured_twice(tmp_path: Path) -> None:
    machine = FakeMachine()
    found = tuned(tmp_path, machine)
    assert found.finished
    assert found.winner is not None
    assert found.winner.candidate == Candidate("graph", 4, 1, 2048, 500)
    assert found.winner.rate is not None
    capacity = machine.capacity(found.winner.candidate)
    assert capacity / 1.06 < found.winner.rate <= capacity
    assert len(machine.served) == len(set(machine.served)) == len(found.tried)
    assert found.tried[0].candidate == BEGIN


def test_the_cpu_of_every_server_is_measured(tmp_path: Path) -> None:
    found = tuned(tmp_path, FakeMachine())
    assert {tried.cpu for tried in found.tried} == {1.5}


def test_a_candidate_that_is_no_better_costs_one_trial(tmp_path: Path) -> None:
    machine = FakeMachine()
    machine.capacity = lambda candidate: 100.0  # type: ignore[method-assign]
    found = tuned(tmp_path, machine)
    assert found.best == 0
    first = machine.trials - (len(found.tried) - 1)
    assert first > 3  # the search with the present settings
    assert {tried.words for tried in found.tried[1:]} == {f"does not hold {found.tried[1].asked:,.1f}/s"}


def test_a_tuning_that_the_budget_ended_goes_on_where_it_was(tmp_path: Path) -> None:
    machine = FakeMachine()
    alone = tuned(tmp_path / "alone", machine)
    broken = FakeMachine()
    known: list[Tried] = []

    def count(tried: Tried) -> None:
        known.append(tried)
        if len(known) == 3:
            broken.budget = threading.Event()

    half = tuned(tmp_path / "cut", broken, budget=3.0, report=count)
    assert not half.finished
    assert len(half.tried) == 3  # the fourth was cut short, and counts as not tried
    assert json.loads((tmp_path / "cut/tune.json").read_text())["finished"] is False
    broken.budget = None
    whole = tuned(tmp_path / "cut", broken)
    assert whole == alone
    assert broken.served == [*machine.served[:4], *machine.served[3:]]
    again = FakeMachine()
    assert tuned(tmp_path / "cut", again) == alone
    assert again.served == []


def test_another_question_or_artifact_is_not_mixed_with_what_was_measured(tmp_path: Path) -> None:
    tuned(tmp_path, FakeMachine())
    with pytest.raises(InputError, match="another artifact"):
        open_state(tmp_path, "other", question_of(SETTINGS))
    with pytest.raises(InputError, match=r"slo p99=50ms, now it is p99=20ms"):
        open_state(tmp_path, "abc", question_of(replace(SETTINGS, objectives=parse_slo("p99=20ms"))))
    state(tmp_path)
    open_state(tmp_path, "abc", question_of(replace(SETTINGS, processes=7)))


def test_settings_that_the_server_does_not_survive_are_named_and_passed_over(tmp_path: Path) -> None:
    bad = replace(BEGIN, threads=4)
    found = tuned(tmp_path, FakeMachine(fails=(bad,)))
    (tried,) = (item for item in found.tried if item.candidate == bad)
    assert tried.words == "the server failed: no memory"
    assert found.winner is not None
    assert found.winner.candidate != bad
    with pytest.raises(ServerError, match="present settings: no memory"):
        tuned(tmp_path / "other", FakeMachine(fails=(BEGIN,)))


def test_a_generator_that_is_the_limit_ends_the_tuning(tmp_path: Path) -> None:
    with pytest.raises(GeneratorError, match="generator's own"):
        tuned(tmp_path, FakeMachine(lag=0.5))
    assert (
        json.loads((tmp_path / "tune.json").read_text())["tried"] == [] if (tmp_path / "tune.json").exists() else True
    )


def test_batching_by_rows_is_only_tried_where_the_graph_does_not_batch() -> None:
    assert sweeps(BEGIN, 2, "batching") == []
    none = Candidate("none", 2)
    assert [item.batching for item in sweeps(none, 2, "batching")] == ["rows"]
    assert sweeps(none, 2, "size") == sweeps(none, 2, "wait") == []
    for axis in ("threads", "size", "wait"):
        found = sweeps(Candidate("rows", 2, 1, 64, 2000), 2, axis)
        assert found
        assert len(set(found)) == len(found)
    for size in (8, 16, 128, 4096):
        assert f"max_execution_batch_size {{ value: {size} }}" in candidate_batching(Candidate("rows", 2, 1, size, 0))


def test_the_settings_are_written_as_a_deployment_reads_them() -> None:
    candidate = Candidate("rows", 2, 1, 32, 500)
    winner = Tried(candidate, 1.0, 100.0, 100.0, 0.01, 0.02, 1.5, 900 << 20, None)
    files = tuned_files(winner, "minilm", 100 << 20, 2)
    assert "num_batch_threads { value: 2 }" in files["serving/batching.config"]
    assert files["serving/batching.config"].startswith("# Written by `sentence-serving tune`")
    assert files["serving/model.env"].splitlines()[-3:] == ["MODEL_NAME=minilm", "CPUS=2", "MEMORY=1536Mi"]
    component = yaml.safe_load(files["k8s/components/tuned/kustomization.yaml"])
    targets = {item["target"]["kind"]: yaml.safe_load(item["patch"]) for item in component["patches"]}
    assert targets["HorizontalPodAutoscaler"][0]["value"] == cpu_target(winner, 2) == 60
    assert [item["value"]["name"] for item in targets["Deployment"]] == ["SERVING_THREADS", "SERVING_THREADS_PER_OP"]
    unknown = tuned_files(replace(winner, cpu=None, candidate=BEGIN), "minilm", 1, 2)
    assert "HorizontalPodAutoscaler" not in unknown["k8s/components/tuned/kustomization.yaml"]
    assert "serving/batching.config" not in unknown


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune")
    sentence_transformer(save_bert(folder / "bert")).save(str(folder / "source"))
    export(folder / "source", folder / "models", "tiny", tokenizer_sample=0.01)
    return folder / "models" / "tiny"


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.long
def test_a_candidate_is_served_from_a_copy_with_its_settings(model: Path, tmp_path: Path) -> None:
    before = contents(model)
    place = VersionFolder.of(model)
    assert batching_in_graph(place) is not None
    servers = LocalServers(place, tmp_path / "work", "embedded", split_cpus(1)[0], candidate_batching)
    candidate = Candidate("graph", 1, 1, 333, 44)
    with servers.serve(candidate) as running:
        copy = VersionFolder.of(tmp_path / "work/tiny")
        assert batching_in_graph(copy) == {
            "max_tokens": 333, "timeout_micros": 44, "threads": 1,
            "max_queued_batches": batching_in_graph(place)["max_queued_batches"],  # type: ignore[index]
        }  # fmt: skip
        assert (copy.folder / "variables/variables.index").stat().st_nlink == 2
        command = Path(f"/proc/{running.pid}/cmdline").read_text().split("\0")
        assert "--tensorflow_inter_op_parallelism=1" in command
        assert len(os.sched_getaffinity(running.pid)) == 1
        assert running.peak_memory() > 1 << 20
    assert not (tmp_path / "work").exists()
    assert not Path(f"/proc/{running.pid}").exists()
    assert contents(model) == before


@pytest.mark.long
def test_the_command_measures_writes_and_applies_only_when_told_to(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = FakeMachine()
    monkeypatch.setattr(LocalServers, "serve", lambda self, candidate: machine.serve(candidate))
    defaults = dict(tune.__kwdefaults__)
    monkeypatch.setitem(tune.__kwdefaults__, "trial", machine.trial)
    before = contents(model)
    inside = batching_in_graph(VersionFolder.of(model))
    arguments = ["tune", str(model), "--slo=p99=50ms", "--rate=50", "--cpus=1", f"--output={tmp_path}", "--json"]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    best = found["tried"][found["best"]]["candidate"]
    assert (best["size"], best["wait_micros"]) == (2048, 500)
    assert "serving/model.env" in found["files"]
    assert (tmp_path / "serving/model.env").read_text().endswith("MODEL_NAME=tiny\nCPUS=1\nMEMORY=768Mi\n")
    assert not found["applied"]
    assert contents(model) == before
    result = CliRunner().invoke(cli, [*arguments[:-1], "--apply"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "holds" in result.stdout
    assert inside != batching_in_graph(VersionFolder.of(model))
    assert batching_in_graph(VersionFolder.of(model)) == {
        **(inside or {}), "max_tokens": 2048, "timeout_micros": 500, "threads": best["threads"],
    }  # fmt: skip
    assert defaults["trial"] is not machine.trial


@pytest.mark.long
def test_where_nothing_holds_the_command_says_so_and_writes_no_settings(model: Path, tmp_path: Path) -> None:
    arguments = ["tune", str(model), "--slo=max=1us", "--rate=10", "--trial=0.6", "--warmup=0.1", "--processes=1",
                 "--cpus=1", "--budget=0.5", f"--output={tmp_path / 'out'}"]  # fmt: skip
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-c", "from toolkit.cli import main; main()", *arguments],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "no settings hold max=0.001ms" in done.stdout
    assert not (tmp_path / "out/serving").exists()
    assert not (tmp_path / "out/.work").exists()
