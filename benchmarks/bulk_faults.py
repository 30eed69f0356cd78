"""Proof that bulk embedding loses nothing: a million rows through the embedded server, behind a proxy that breaks
connections, with the server killed ten times and the client three times.

    python benchmarks/bulk_faults.py [--rows 1000000] [--server-kills 10] [--client-kills 3] [--protocol grpc]

Prints what happened and exits with 1 unless every row is there once with its own vector.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "client")]

from chaos import embed_command, free_port, survive  # noqa: E402
from fault_proxy import mixture  # noqa: E402

DIM = 8


def make_model(folder: Path) -> object:
    """A model whose vector is a hash of the text: any mix-up of rows shows."""
    import tensorflow as tf

    class Hash(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
        def embed(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
            parts = [tf.strings.to_hash_bucket_fast(tf.strings.join([text, f"/{i}"]), 1 << 20) for i in range(DIM)]
            return {"embedding": tf.cast(tf.stack(parts, 1), tf.float32) / (1 << 20)}

    model = Hash()
    tf.saved_model.save(model, str(folder), signatures={"serving_default": model.embed})
    return model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--server-kills", type=int, default=10)
    parser.add_argument("--client-kills", type=int, default=3)
    parser.add_argument("--protocol", choices=["grpc", "rest"], default="grpc")
    parser.add_argument("--batch", type=int, default=500, help="rows per request")
    parser.add_argument("--limit", type=float, default=3600, help="seconds after which the proof has failed")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="bulk-faults-"))
    texts = [f"row {i} of a million" for i in range(options.rows)]
    source, target = work / "texts.txt", work / "out.npy"
    source.write_text("".join(text + "\n" for text in texts))
    model = make_model(work / "models" / "hash" / "1")
    grpc_port, rest_port = free_port(), free_port()
    scheme, port = ("grpc", grpc_port) if options.protocol == "grpc" else ("http", rest_port)
    server = [
        sys.executable, "-c", "from toolkit.cli import main; main()", "serve",
        "--model_name", "hash", "--model_base_path", str(work / "models" / "hash"),
        "--port", str(grpc_port), "--rest_api_port", str(rest_port),
    ]  # fmt: skip
    outcome = survive(
        server,
        port,
        lambda proxy: embed_command(
            f"{scheme}://127.0.0.1:{proxy}", "hash", source, target, "--rows", str(options.batch)
        ),
        target,
        options.rows * DIM * 4,
        server_kills=options.server_kills,
        client_kills=options.client_kills,
        faults=mixture(1, most=1_000_000, healthy=0.2),
        limit=options.limit,
    )
    found = np.load(target) if target.exists() else np.empty((0, DIM), np.float32)
    expected = np.concatenate(
        [model.embed(texts[i : i + 50_000])["embedding"].numpy() for i in range(0, len(texts), 50_000)]  # type: ignore[attr-defined]
    )
    equal = found.shape == expected.shape and np.array_equal(found, expected)
    distinct = len(np.unique(found, axis=0)) == len(np.unique(expected, axis=0))
    print(
        json.dumps(
            {
                "rows": options.rows,
                "protocol": options.protocol,
                "server_kills": outcome.server_kills,
                "client_kills": outcome.client_kills,
                "faults": outcome.faults,
                "seconds": round(outcome.seconds, 1),
                "exit_status": outcome.status,
                "every_row_once_with_its_own_vector": bool(equal and distinct),
            },
            indent=1,
        )
    )
    done = (outcome.server_kills, outcome.client_kills, outcome.status) == (
        options.server_kills,
        options.client_kills,
        0,
    )
    if equal and done:
        shutil.rmtree(work)
        return 0
    print(f"left for inspection: {work}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
