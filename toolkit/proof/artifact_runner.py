"""Run a SavedModel on batches of texts: the fresh process in which ``check`` reloads an artifact.

``python -m toolkit.proof.artifact_runner SAVED_MODEL 0<>FILE``. The file holds JSON,
``{"batches": [[text, ...], ...], "hidden": n, "further": [signature, ...]}``, and in its place afterwards an ``.npz``
archive of arrays named ``<batch>/<output>``. The first ``n`` batches are run through ``token_embeddings``,
``embed_tokens``, the stages and the ``further`` signatures from text to embedding (``<batch>/text/<signature>``) too.
One line with the number of finished batches goes to stdout after each.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["run_batches"]


def run_batches(
    saved_model: Path, batches: list[list[str]], hidden: int, further: list[str]
) -> dict[str, npt.NDArray[Any]]:
    """Answers of the artifact's signatures by ``<batch>/<name>``; prints progress."""
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  registers the tokenizer's ops

    loaded = tf.saved_model.load(str(saved_model))
    signatures = loaded.signatures
    arrays: dict[str, npt.NDArray[Any]] = {}
    for index, batch in enumerate(batches):
        text = tf.constant([item.encode() for item in batch], tf.string)
        tokens = signatures["tokenize"](text=text)
        outputs = {
            "serving_default": signatures["serving_default"](text=text)["embedding"],
            **signatures["detailed"](text=text),
            "input_ids": tokens["input_ids"],
            "attention_mask": tokens["attention_mask"],
        }
        if index < hidden:
            outputs["embed_tokens"] = signatures["embed_tokens"](**tokens)["embedding"]
            outputs["hidden"] = signatures["token_embeddings"](text=text)["token_embeddings"]
            outputs |= {f"stage/{name}": value for name, value in loaded.stages(text).items()}
            outputs |= {f"text/{name}": signatures[name](text=text)["embedding"] for name in further}
        arrays |= {f"{index}/{name}": value.numpy() for name, value in outputs.items()}
        print(index + 1, flush=True)
    return arrays


def main() -> None:
    """Entry point of the process."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with open(0, "r+b", closefd=False) as exchange:
        request = json.load(exchange)
        arrays = run_batches(Path(sys.argv[1]), request["batches"], request["hidden"], request["further"])
        exchange.seek(0)
        exchange.truncate()
        np.savez(exchange, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
