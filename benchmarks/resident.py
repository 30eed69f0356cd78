"""What a model costs in memory: its export, and the embedded server that has it.

    python -m benchmarks.resident bge-m3 [--tokenizer tokenizer.json] [--work DIR]

Makes a model of that shape with random weights, exports it with the proof and a sample of the tokenizer's, and serves
it. Memory is the kernel's: of the exporting process and the one that proves, at its largest, and of the server once it
is ready and after ``--requests`` requests. From the server's the same server with a trivial model is taken. Results are
printed as JSON. Nothing that ``--work`` holds already is made again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.encoders.models import LONGEST, minilm, save
from benchmarks.encoders.process import ROOT
from benchmarks.encoders.texts import make_set

SHAPES: Mapping[str, str] = {
    "e5-small": "multilingual-e5-small",
    "modernbert-base": "ModernBERT-base",
    "bge-m3": "bge-m3, 2.3 GB",
    "qwen3-0.6b": "Qwen3-Embedding-0.6B, 2.4 GB",
}
PADDING = ("<pad>", "[PAD]", "<|endoftext|>")
COMMAND = "from toolkit.cli import main; main()"
TEXTS, LARGEST_BATCH = 512, 8


def configuration(shape: str) -> Any:
    """The configuration that models of that name have, as far as the shape of tensors goes."""
    from transformers import BertConfig, ModernBertConfig, Qwen3Config, XLMRobertaConfig

    made: dict[str, Callable[[], Any]] = {
        "e5-small": lambda: BertConfig(
            vocab_size=250_037, hidden_size=384, num_attention_heads=12, intermediate_size=1536
        ),
        "modernbert-base": ModernBertConfig,
        "bge-m3": lambda: XLMRobertaConfig(
            vocab_size=250_002, max_position_embeddings=LONGEST + 2, type_vocab_size=1, layer_norm_eps=1e-5,
            hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
        ),
        "qwen3-0.6b": lambda: Qwen3Config(
            vocab_size=151_669, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28,
            num_attention_heads=16, num_key_value_heads=8, head_dim=128,
        ),
    }  # fmt: skip
    return made[shape]()


def make_source(shape: str, tokenizer: Path | None, target: Path) -> None:
    """The model's folder; texts are cut at 512 tokens."""
    import torch
    from transformers import PreTrainedTokenizerFast

    torch.manual_seed(0)
    fast = None
    if tokenizer is not None:
        fast = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer))
        fast.pad_token = next(token for token in PADDING if token in fast.get_vocab())
    save(configuration(shape), target, 512, fast)


def status(process: int | str) -> dict[str, int]:
    """Bytes by kind, as the kernel counts them: none of a process that is gone."""
    try:
        lines = Path("/proc", str(process), "status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    sizes = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): 1024 * int(value) for name, value, _ in sizes}


def descendants(process: int) -> Iterator[int]:
    """A process and those that it started, and they."""
    yield process
    for file in Path("/proc", str(process)).glob("task/*/children"):
        try:
            children = file.read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in children:
            yield from descendants(int(child))


class Peaks:
    """The most that a process and all below it held, watched every tenth of a second."""

    def __init__(self, process: int) -> None:
        self.together = 0
        """Resident without the pages of files that are only mapped, of all at one time."""
        self.each: dict[int, int] = {}
        self._process = process
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            found = {number: status(number).get("RssAnon", 0) for number in descendants(self._process)}
            self.together = max(self.together, sum(found.values()))
            self.each = {number: max(size, self.each.get(number, 0)) for number, size in (self.each | found).items()}

    def stop(self) -> None:
        self._over.set()
        self._watcher.join()


def run_watched(*arguments: str) -> dict[str, Any]:
    """Runs the command; seconds and peaks."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", COMMAND, *arguments], env=environment(), stdout=sys.stderr)
    peaks = Peaks(process.pid)
    code = process.wait()
    peaks.stop()
    if code:
        raise SystemExit(f"{' '.join(arguments)}: exit code {code}")
    others = [size for number, size in peaks.each.items() if number != process.pid]
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "exporting_mb": megabytes(peaks.each.get(process.pid, 0)),
        "proving_mb": megabytes(max(others, default=0)),
        "together_mb": megabytes(peaks.together),
    }


def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}


def megabytes(size: float) -> int:
    return round(size / 1e6)


@contextmanager
def served(models_dir: Path) -> Iterator[tuple[int, str, float]]:
    """The embedded server with the models of a folder: its number, its gRPC address and how long it took to start."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "serve", str(models_dir), "--port=0", "--rest_api_port=0", "--json"],
        env=environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"the server of {models_dir} ended, exit code {process.wait()}")
        yield process.pid, f"grpc://{json.loads(line)['grpc']}", time.perf_counter() - started
    finally:
        process.terminate()
        process.wait(timeout=60)


def bare() -> int:
    """Resident bytes of a server with a trivial model."""
    with served(ROOT / "tests" / "server" / "golden" / "models") as (process, _, _):
        return status(process)["VmRSS"]


def serve(models_dir: Path, name: str, requests: int) -> dict[str, Any]:
    """The server's memory above that of `bare`, in megabytes and as a share of the variables."""
    from toolkit.client import Client

    least = bare()
    variables = sum(file.stat().st_size for file in models_dir.glob(f"{name}/1/variables/*.data-*"))
    texts, drawn = make_set("mixed", TEXTS, 0, minilm() / "tokenizer.json").texts, random.Random(0)
    with served(models_dir) as (process, address, seconds):
        ready = status(process)
        with Client(address, model=name) as client:
            for _ in range(requests):
                client.embed(drawn.sample(texts, drawn.randint(1, LARGEST_BATCH)))
        after = status(process)
    steps = {"ready": ready["VmRSS"], "after": after["VmRSS"], "largest": after["VmHWM"]}
    return {
        "bare_server_mb": megabytes(least),
        "variables_mb": megabytes(variables),
        "seconds_to_ready": round(seconds, 1),
        "requests": requests,
        **{f"{step}_mb": megabytes(size - least) for step, size in steps.items()},
        **{f"{step}_share": round((size - least) / variables, 2) for step, size in steps.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=list(SHAPES))
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="a tokenizer.json (default: MiniLM's)")
    parser.add_argument("--requests", type=int, default=100, help=f"of 1 to {LARGEST_BATCH} mixed texts")
    parser.add_argument("--option", action="append", default=[], help="of the export, --optimize=latency for one")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "resident", metavar="DIR")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    tokenizer = "minilm" if given.tokenizer is None else given.tokenizer.stem
    name = "-".join([given.shape, tokenizer, *(option.strip("-").replace("=", "-") for option in given.option)])
    source, models_dir = given.work / f"{given.shape}-{tokenizer}", given.work / "models" / name
    result: dict[str, Any] = {"shape": SHAPES[given.shape], "tokenizer": tokenizer}
    if not (source / "modules.json").is_file():
        make_source(given.shape, given.tokenizer, source)
    if not models_dir.is_dir():
        options = ["--name", name, "--tokenizer-sample", "0.01", *given.option]
        result["export"] = run_watched("export", str(source), str(models_dir), *options)
    result["server"] = serve(models_dir, name, given.requests)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
