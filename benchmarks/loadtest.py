"""The load generator against others on the same server, and the most it can send.

    python benchmarks/loadtest.py --model minilm --grpc localhost:8500 --rest localhost:8501 [--markdown FILE]
    python benchmarks/loadtest.py --most [--markdown FILE]

Compared are closed loops of the same number of callers and the same text: ours with Debian's `wrk` (REST), and ours
with `h2load` of nghttp2-client (gRPC frames over one connection). The generators take turns, a round each, so that what
else the machine does falls on all of them. `--most` sends to `nghttpd` of nghttp2-server, which answers every call with
the same gRPC frame at once, from two processes.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

from toolkit.client.types import Spec
from toolkit.client.wire import messages
from toolkit.client.wire.rest import RestCodec
from toolkit.client.wire.tensors import GrpcCodec
from toolkit.loadtest import Closed, Report, Settings, Target, TextSource, constant, run

TEXT = "the quick brown fox jumps over the lazy dog"
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class Figures:
    """Answers a second; latencies in milliseconds, where the generator tells them."""

    rate: float
    p50: float | None = None
    p99: float | None = None
    mean: float | None = None


def ours(url: str, options: argparse.Namespace, folder: Path) -> Figures:
    (folder / "text.txt").write_text(TEXT + "\n")
    report = run(
        Settings(
            url,
            (Target(options.model),),
            Closed(options.callers, options.seconds),
            warmup=1.0,
            texts=TextSource(str(folder / "text.txt")),
            requests=1,
        )
    )
    if report.measured.failed:
        raise SystemExit(f"{url}: {report.measured.errors}")
    found = report.measured.latency
    p50, p99, mean = found.at(0.5).value, found.at(0.99).value, found.mean
    assert p50 is not None
    assert p99 is not None
    assert mean is not None
    return Figures(report.measured.throughput.requests, p50 * 1e3, p99 * 1e3, mean * 1e3)


def wrk(address: str, options: argparse.Namespace, folder: Path) -> Figures:
    request = RestCodec().predict(Spec(options.model), {"text": [TEXT.encode()]}, (), None)
    assert request.body is not None
    script = folder / "post.lua"
    script.write_text(
        f"wrk.method = 'POST'\nwrk.body = [==[{request.body.decode()}]==]\n"
        "wrk.headers['content-type'] = 'application/json'\n"
    )
    command = ["wrk", "-t", "2", "-c", str(options.callers), "-d", f"{options.seconds:g}s", "--latency", "-s", script]
    text = subprocess.check_output([*command, f"http://{address}{request.path}"], text=True)
    if "Non-2xx" in text:
        raise SystemExit(text)
    p50, p99 = (_milliseconds(re.search(rf"{name}%\s+([\d.]+)(us|ms|s)", text)) for name in ("50", "99"))
    mean = _milliseconds(re.search(r"Latency\s+([\d.]+)(us|ms|s)", text))
    return Figures(float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]), p50, p99, mean)  # type: ignore[index]


def h2load(address: str, options: argparse.Namespace, folder: Path) -> Figures:
    request = GrpcCodec().predict(Spec(options.model), {"text": [TEXT.encode()]}, (), None)
    assert request.body is not None
    body = folder / "frame"
    body.write_bytes(b"\0" + len(request.body).to_bytes(4, "big") + request.body)
    command = ["h2load", "-t", "1", "-c", "1", "-m", str(options.callers), "-D", f"{options.seconds:g}"]
    command += ["-d", str(body), "-H", "content-type: application/grpc", "-H", "te: trailers", "--warm-up-time=1"]
    text = subprocess.check_output([*command, f"http://{address}{request.path}"], text=True)
    times = re.search(r"time for request:\s+\S+\s+\S+\s+([\d.]+)(us|ms|s)", text)
    return Figures(float(re.search(r"([\d.]+) req/s", text)[1]), mean=_milliseconds(times))  # type: ignore[index]


def _milliseconds(match: re.Match[str] | None) -> float:
    assert match is not None
    return float(match[1]) * _UNITS[match[2]]


def compare(options: argparse.Namespace) -> Iterator[str]:
    generators: dict[str, Callable[[Path], Figures]] = {
        "wrk, REST": lambda folder: wrk(options.rest, options, folder),
        "ours, REST": lambda folder: ours(f"http://{options.rest}", options, folder),
        "h2load, gRPC": lambda folder: h2load(options.grpc, options, folder),
        "ours, gRPC": lambda folder: ours(f"grpc://{options.grpc}", options, folder),
    }
    found: dict[str, list[Figures]] = {name: [] for name in generators}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            for name, generator in generators.items():
                found[name].append(generator(Path(folder)))
    yield (
        f"{options.callers} callers, {options.seconds:g} s a round, {options.rounds} rounds in turn; median "
        "(least to greatest)."
    )
    yield ""
    yield "| generator | answers a second | p50, ms | p99, ms | mean, ms |"
    yield "|---|---|---|---|---|"
    for name, rounds in found.items():
        columns = [_spread([getattr(item, field) for item in rounds]) for field in ("rate", "p50", "p99", "mean")]
        yield f"| {name} | {' | '.join(columns)} |"


def _spread(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{median(known):.1f} ({min(known):.1f} to {max(known):.1f})" if known else ""


@contextmanager
def instant_server() -> Iterator[str]:
    """nghttpd with one gRPC answer for each method, as files."""
    signatures = messages.SignatureDefMap()
    signatures.signature_def["serving_default"].inputs["text"].dtype = 7
    metadata = messages.GetModelMetadataResponse(model_spec={"name": "m"})
    metadata.metadata["signature_def"].value = signatures.SerializeToString()
    answer = messages.PredictResponse(model_spec={"name": "m"})
    answer.outputs["embedding"].CopyFrom(messages.TensorProto(dtype=1, tensor_content=bytes(4 * 384)))
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, "tensorflow.serving.PredictionService")
        folder.mkdir()
        for name, message in (("Predict", answer), ("GetModelMetadata", metadata)):
            body = message.SerializeToString()
            (folder / name).write_bytes(b"\0" + len(body).to_bytes(4, "big") + body)
        port = "18650"
        process = subprocess.Popen(
            ["nghttpd", "--no-tls", "-m", "10000", "-d", root, "--trailer=grpc-status: 0", port],
            stdout=subprocess.DEVNULL,
        )
        try:
            time.sleep(0.5)
            yield f"grpc://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def most(options: argparse.Namespace) -> Iterator[str]:
    yield "| load | answers a second | generator's CPU a request, µs | lag p50, ms | lag p99, ms |"
    yield "|---|---|---|---|---|"
    with instant_server() as url:
        for load in (
            Closed(64, options.seconds),
            *(constant(r, options.seconds) for r in (1000, 5000, 10_000, 20_000)),
        ):
            report: Report = run(Settings(url, (Target("m"),), load, warmup=1.0, requests=64))
            measured = report.measured
            whole = 1 + 1 / options.seconds  # the warm-up's requests took CPU, too
            lag = [(measured.lag.at(q).value or 0) * 1e3 for q in (0.5, 0.99)]
            columns = ["", ""] if report.closed else [f"{value:.3f}" for value in lag]
            cpu = report.generator.cpu / (measured.sent * whole) * 1e6
            words = report.load_words.partition(":")[0 if report.closed else 2].strip()
            yield f"| {words} | {measured.throughput.requests:,.0f} | {cpu:.0f} | {' | '.join(columns)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--grpc", default="localhost:8500")
    parser.add_argument("--rest", default="localhost:8501")
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--most", action="store_true", help="what two processes can send, instead")
    parser.add_argument("--markdown", type=Path, help="write the table to this file, too")
    options = parser.parse_args()
    missing = [name for name in (["nghttpd"] if options.most else ["wrk", "h2load"]) if shutil.which(name) is None]
    if missing:
        raise SystemExit(f"not installed: {', '.join(missing)} (Debian: wrk, nghttp2-client, nghttp2-server)")
    text = "\n".join(most(options) if options.most else compare(options)) + "\n"
    print(text)
    if options.markdown:
        options.markdown.write_text(text)


if __name__ == "__main__":
    main()
