"""Run a SavedModel on batches of rows: the fresh process in which ``check`` reloads an artifact.

``python -m toolkit.proof.artifact_runner FILE_DESCRIPTOR``. It imports tensorflow and waits until its stdin is closed.
Then the file holds JSON, ``{"saved_model": folder, "batches": [{"inputs": {column: [text, ...]}, "calls": [[function,
of], ...]}, ...]}``, and in its place afterwards an ``.npz`` archive of arrays named ``<batch>/<function>/<output>``. A
function is a signature, or one that is not served (``stages``); it is given the outputs of the function ``of``, else
the batch's inputs. One line with the number of finished batches goes to stdout after each.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.server.runtime import import_tensorflow, text_libraries

__all__ = ["run_batches"]


def run_batches(saved_model: Path, batches: Sequence[Mapping[str, Any]]) -> dict[str, npt.NDArray[Any]]:
    """Answers of the artifact's functions by ``<batch>/<function>/<output>``; prints progress."""
    import tensorflow as tf

    for library in text_libraries():
        tf.load_op_library(str(library))
    loaded = tf.saved_model.load(str(saved_model))
    arrays: dict[str, npt.NDArray[Any]] = {}
    for index, batch in enumerate(batches):
        inputs = {
            name: tf.constant([item.encode() for item in column], tf.string) for name, column in batch["inputs"].items()
        }
        outputs: dict[str, Any] = {}
        for name, of in batch["calls"]:
            given = inputs if of is None else outputs[of]
            served = loaded.signatures.get(name)
            outputs[name] = served(**given) if served is not None else getattr(loaded, name)(*given.values())
        for name, found in outputs.items():
            arrays |= {f"{index}/{name}/{output}": value.numpy() for output, value in found.items()}
        print(index + 1, flush=True)
    return arrays


def main() -> None:
    """Entry point of the process."""
    import_tensorflow()
    sys.stdin.read()
    with open(int(sys.argv[1]), "r+b") as exchange:
        request = json.load(exchange)
        arrays = run_batches(Path(request["saved_model"]), request["batches"])
        exchange.seek(0)
        exchange.truncate()
        np.savez(exchange, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
