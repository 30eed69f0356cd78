"""Callers with one text each, against requests of many texts: how much of the throughput is left.

    python -m benchmarks.serving --artifact NAME=MODELS/NAME/1 [--artifact ...]
    python -m benchmarks.serving --docs          write what was measured into docs/performance.md

Each artifact is asked in three ways: by the embedded server without batching and with `serving/batching.config` (both
over gRPC, the callers in a process of their own on the same cores), and loaded into the callers' process. All are
started first and take turns; while it is not its turn a server is stopped (SIGSTOP). An artifact that batches inside
its graph does so in all three; name one that does and one that does not to compare.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import IO, Any

from benchmarks.callers import MODEL
from benchmarks.encoders import models
from benchmarks.encoders.process import ROOT, environment
from benchmarks.encoders.report import replace_section
from benchmarks.encoders.texts import SETS, write_sets

DOCUMENT = ROOT / "docs" / "performance.md"
WAYS = ("server", "server-batching", "direct")
TITLES = {"server": "embedded server", "server-batching": "embedded server, row batching", "direct": "in process"}
LARGE = "128 texts"
Result = dict[str, float]


class Asked:
    """A child process that answers JSON lines."""

    def __init__(self, command: Sequence[str], threads: int) -> None:
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
            env=environment(threads),
        )  # fmt: skip

    def answer(self) -> dict[str, Any]:
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(map(str, self.child.args))} ended with {self.child.wait()}")  # type: ignore[arg-type]
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, **command: Any) -> dict[str, Any]:
        stdin: IO[str] | None = self.child.stdin
        assert stdin is not None
        stdin.write(json.dumps(command) + "\n")
        stdin.flush()
        return self.answer()

    def close(self) -> None:
        self.child.kill()
        self.child.wait()


class Target:
    """An artifact asked in one way. Stopped except within `measure`."""

    def __init__(self, name: str, artifact: Path, way: str, callers: Asked, process: Asked) -> None:
        self.name, self.artifact, self.way = name, artifact, way
        self._callers, self._process = callers, process
        self._address = process.answer().get("grpc", "")
        self.sleep()

    @property
    def title(self) -> str:
        return f"{self.name}, {TITLES[self.way]}"

    def sleep(self) -> None:
        self._process.child.send_signal(signal.SIGSTOP)

    def measure(self, callers: int, rows: int, seconds: float) -> Result:
        """Texts, seconds, latencies, and CPU seconds of the server and of the callers."""
        self._process.child.send_signal(signal.SIGCONT)
        command = {"callers": callers, "rows": rows, "seconds": seconds}
        if self.way == "direct":
            found = self._process.ask(**command)
        else:
            found = self._callers.ask(**command, address=self._address, pid=self._process.child.pid)
        self.sleep()
        return found


def start(
    name: str, artifact: Path, way: str, callers: Asked, threads: tuple[int, int], sets: Path, kind: str, config: Path
) -> Target:
    """The target, loaded; ``threads`` are those within an op and those that run ops."""
    within, across = map(str, threads)
    if way == "direct":
        command = [sys.executable, "-m", "benchmarks.callers", "direct", str(sets), kind, str(artifact), within, across]
    else:
        command = [
            sys.executable, "-c", "from toolkit.cli import main; main()", "serve", "--json", "--host", "127.0.0.1",
            "--port", "0", "--rest_api_port", "-1", "--model_name", MODEL, "--model_base_path", str(artifact.parent),
            "--tensorflow_intra_op_parallelism", within, "--tensorflow_inter_op_parallelism", across,
            "--grpc_max_threads", "256",
        ]  # fmt: skip
    if way == "server-batching":
        command += ["--enable_batching", "--batching_parameters_file", str(config)]
    return Target(name, artifact, way, callers, Asked(command, threads[1]))


def loads(callers: Sequence[int], cores: int) -> dict[str, tuple[int, int]]:
    """Callers and rows of a request by title; the large requests have a caller for each core."""
    return {**{f"{count} callers": (count, 1) for count in callers}, LARGE: (cores, 128)}


def run(given: argparse.Namespace, artifacts: Mapping[str, Path], affinity: Sequence[int]) -> dict[str, Any]:
    """All targets in turns."""
    cores = len(affinity)
    results: dict[str, dict[str, list[Result]]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sets, config = folder / "sets.json", folder / "batching.config"
        write_sets(sets, models.minilm() / "tokenizer.json")
        shipped = (ROOT / "serving" / "batching.config").read_text()
        config.write_text(re.sub(r"(num_batch_threads \{ value:) \d+", rf"\1 {cores}", shipped))
        callers = Asked([sys.executable, "-m", "benchmarks.callers", "grpc", str(sets), given.set], cores)
        stack.callback(callers.close)
        callers.answer()
        targets = []
        for name, artifact in artifacts.items():
            for way, within in itertools.product(given.ways, given.compute_threads or [cores]):
                named = name if within == cores else f"{name}, {within} compute thread{'s' * (within > 1)}"
                target = start(named, artifact, way, callers, (within, cores), sets, given.set, config)
                stack.callback(target._process.close)
                targets.append(target)
                results[target.title] = {}
                print(f"{target.title}: loaded", file=sys.stderr, flush=True)
        plan = loads(given.callers, cores)
        for number in range(-1, given.rounds):  # the first is the warm-up
            for title, (count, rows) in plan.items():
                for target in targets if number % 2 else reversed(targets):
                    found = target.measure(count, rows, given.seconds)
                    if number >= 0:
                        results[target.title].setdefault(title, []).append(found)
            print(f"round {number + 1} of {given.rounds}", file=sys.stderr, flush=True)
    about = {"date": datetime.date.today().isoformat(), "cores": cores, "set": given.set, "rounds": given.rounds}
    return {"about": about, "results": results}


def report(found: Mapping[str, Any]) -> Iterator[str]:
    """The table: medians over the rounds; the ratio to large requests is the median of each round's."""
    about, results = found["about"], found["results"]
    cores = "1 core" if about["cores"] == 1 else f"{about['cores']} cores"
    yield f"{about['set']} texts, callers and server together on {cores}, {about['rounds']} rounds, {about['date']}."
    yield ""
    columns = (
        "served by", "load", "texts a second", "of large requests", "by CPU", "p50 ms", "p95 ms", "p99 ms",
        "server's CPU, ms a text", "callers' share of CPU", "lone caller, ms more",
    )  # fmt: skip
    yield f"| {' | '.join(columns)} |"
    yield "|---|---|" + "---:|" * (len(columns) - 2)
    lone = {
        name: [item["p50"] for item in loads["1 callers"]] for name, loads in results.items() if "1 callers" in loads
    }
    for name, by_load in results.items():
        way = name.rpartition("in process")[1] or "server"
        # The lone caller of the first artifact served in the same way, without the server's batching
        first = next((p50 for other, p50 in lone.items() if (other.endswith("in process")) == (way != "server")), None)
        for title, rounds in by_load.items():
            large = by_load[LARGE]
            rates = [item["texts"] / item["seconds"] for item in rounds]
            costs = [item["server_cpu"] / item["texts"] for item in rounds]
            full = [item["texts"] / item["seconds"] for item in large]
            cheap = [item["server_cpu"] / item["texts"] for item in large]
            share = [item["client_cpu"] / (item["client_cpu"] + item["server_cpu"]) for item in rounds]
            more = ""
            if title == "1 callers" and first is not None:
                more = f"{1e3 * median(mine - other for mine, other in zip(lone[name], first, strict=True)):.2f}"
            cells = [
                f"{median(rates):.0f}",
                f"{median(a / b for a, b in zip(rates, full, strict=True)):.2f}",
                f"{median(b / a for a, b in zip(costs, cheap, strict=True)):.2f}",
                *(f"{1e3 * median(item[key] for item in rounds):.1f}" for key in ("p50", "p95", "p99")),
                f"{1e3 * median(costs):.2f}",
                "" if way != "server" else f"{median(share):.0%}",
                more,
            ]
            shown = "1 caller" if title == "1 callers" else title
            yield f"| {name} | {shown} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", action="append", default=[], metavar="NAME=DIR", help="a version directory")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--callers", nargs="+", type=int, default=[1, 16, 64], metavar="N")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--set", choices=SETS, default="mixed")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument(
        "--compute-threads",
        nargs="+",
        type=int,
        metavar="N",
        help="threads within an op to compare (default: the cores)",
    )
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "benchmarks", metavar="DIR")
    parser.add_argument("--docs", action="store_true", help="measure nothing, write the document")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    if given.docs:
        lines: list[str] = []
        for file in sorted(given.work.glob("serving-*.json")):
            lines += [*report(json.loads(file.read_text())), ""]
        DOCUMENT.write_text(replace_section(DOCUMENT.read_text(), "benchmarks/serving.py", lines))
        return
    artifacts = {name: Path(folder).resolve() for name, _, folder in (item.partition("=") for item in given.artifact)}
    for name, folder in artifacts.items():
        if not (folder / "saved_model.pb").is_file():
            parser.error(f"--artifact {name}={folder}: no saved_model.pb there; expected a version directory")
    if not artifacts:
        parser.error("nothing to serve: give --artifact NAME=DIR")
    available = sorted(os.sched_getaffinity(0))
    if given.cores > len(available):
        parser.error(f"--cores {given.cores}: this process may use {len(available)}")
    os.sched_setaffinity(0, available[-given.cores :])  # the children inherit it
    found = run(given, artifacts, available[-given.cores :])
    (given.work / f"serving-{given.set}-{given.cores}.json").write_text(json.dumps(found, indent=1))
    print("\n".join(report(found)))


if __name__ == "__main__":
    main()
