"""Load and run an artifact in the oldest TensorFlow and tensorflow-text whose server ``inspect`` says can load it.

    python benchmarks/oldest_runtime.py MODELS/NAME/VERSION ORIGINAL [--release 2.17] [--python PYTHON]

For the default release, 2.12, the artifact must be one exported with ``--oldest-server 2.12``.
TF Serving of the same number links exactly these two libraries. They are installed into a throw-away environment from
PyPI, unless ``--python`` is that of one which has them; needs the ``[convert]`` extra in this one, for the original's
vectors. Requests are run one after another, then several at a time on several threads: some kernels of old releases do
not survive that. Exit code 1 if a vector differs by more than 1e-5. ``make test-runtimes`` does it with every family
and every task.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PACKAGES = {
    "2.12": ("tensorflow-cpu==2.12.1", "tensorflow-text==2.12.1", "numpy<1.24", "setuptools<81"),
    "2.17": ("tensorflow==2.17.1", "tensorflow-text==2.17.0", "numpy<2"),
}
TEXTS = ["hello world", "", "Die Straße 東京 🚀 [SEP]", "word " * 300, "abc"] * 10

RUN = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np, tensorflow as tf
try:
    import tensorflow_text
except ModuleNotFoundError:  # no artifact that is not asked for needs its ops
    tensorflow_text = None
folder, texts, out = sys.argv[1], json.load(open(sys.argv[2], encoding="utf-8")), sys.argv[3]
threads = tf.compat.v1.ConfigProto(
    inter_op_parallelism_threads=4, intra_op_parallelism_threads=1, use_per_session_threads=True
)
session = tf.compat.v1.Session(graph=tf.Graph(), config=threads)
with session.graph.as_default():
    meta = tf.compat.v1.saved_model.load(session, ["serve"], folder)
columns = {"text": texts, "document": texts, "query": texts[::-1]}
def ask(name):
    signature = meta.signature_def[name]
    outputs = {key: tensor.name for key, tensor in signature.outputs.items()}
    return session.run(outputs, {tensor.name: columns[key] for key, tensor in signature.inputs.items()})
signatures = {name: set(item.inputs) for name, item in meta.signature_def.items()}
asked = [name for name, inputs in signatures.items() if inputs and inputs <= set(columns)]
found = {name: ask(name) for name in asked}
with ThreadPoolExecutor(8) as callers:
    again = list(callers.map(ask, ["serving_default"] * 24))
for key, values in found["serving_default"].items():
    found["serving_default"][key] = np.stack([values, *(answer[key] for answer in again)])
np.savez(out, **{f"{name}/{key}": value for name, answer in found.items() for key, value in answer.items()})
print("tensorflow", tf.__version__, "tensorflow-text", tensorflow_text and tensorflow_text.__version__)
"""


def make_runtime(folder: Path, release: str) -> str:
    """The Python of an environment in ``folder`` with the release, a key of ``PACKAGES``: installed unless it is."""
    python, whole = str(folder / "bin" / "python"), folder / "installed"
    if not whole.exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES[release]], check=True)
        whole.touch()
    return python


def answers(python: str, saved_model: Path) -> dict[str, npt.NDArray[Any]]:
    """What the artifact answers to ``TEXTS`` under another environment's ``python``, by ``signature/output``: of every
    signature of texts or pairs of them, and of ``serving_default`` as often as it was asked, in front of the rows.

    Raises ``subprocess.CalledProcessError`` where it does not load or dies.
    """
    with tempfile.TemporaryDirectory() as name:
        texts, out = Path(name, "texts.json"), Path(name, "out.npz")
        texts.write_text(json.dumps(TEXTS), encoding="utf-8")
        subprocess.run([python, "-c", RUN, str(saved_model.resolve()), str(texts), str(out)], check=True)
        with np.load(out) as found:
            return dict(found)


def main() -> int:
    """Install, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("saved_model", type=Path)
    parser.add_argument("original", type=Path)
    parser.add_argument("--release", choices=PACKAGES, default="2.12", help="of TensorFlow and tensorflow-text")
    parser.add_argument("--python", help="of an environment that has them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        python = options.python or make_runtime(Path(name, "venv"), options.release)
        ours = answers(python, options.saved_model)["serving_default/embedding"]

    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(options.original), device="cpu").encode(TEXTS, show_progress_bar=False)
    difference = float(np.abs(ours - theirs).max())
    print(f"{len(ours)} requests of {len(TEXTS)} texts, max abs difference from the original: {difference:.1e}")
    return 0 if difference <= 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
