"""Why a single short text is slower in TensorFlow than in ONNX Runtime: the matrix products alone, by rows.

    python -m benchmarks.products              prints the table
    python -m benchmarks.products --docs       and writes it into docs/performance.md
    python -m benchmarks.products --cores 2    by the wall, with two threads for operations beside each other

The 24 products of all-MiniLM-L6-v2's layers, one after another, on one core, in CPU time: with weights in variables and
the bias in the product's kernel, as exports have them; with weights as constants of the graph, which oneDNN can put
into its own order once and not at each call: it does so in a convolution over one pixel, which is the same product; by
the kernel that keeps variables packed, as exports have it for one short text; and what it would take to have two
threads compute one text: each product as two halves, and weights that are stored with outputs first, as they would have
to be for halves to be no copies.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np

from benchmarks.encoders.process import ROOT
from benchmarks.encoders.report import replace_section

DOCUMENT = ROOT / "docs" / "performance.md"
LAYERS, HIDDEN = 6, 384
SHAPES = ((HIDDEN, 3 * HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 4 * HIDDEN), (4 * HIDDEN, HIDDEN))
ROWS = (8, 16, 24, 32, 64, 128, 512, 2048)
PACKED_ROWS = 64
"""As many rows as the packed kernel is for."""
ROUNDS = 25


def chains(few: bool) -> dict[str, Callable[[Any], Any]]:
    """The ways to compute the products, by name; those that keep weights packed for ``few`` rows alone."""
    import tensorflow as tf

    from toolkit.encoder.precision.packed import packed_product

    random = np.random.default_rng(0)
    weights = [(random.standard_normal(shape) * 0.02).astype(np.float32) for shape in SHAPES * LAYERS]
    stored = [tf.Variable(weight) for weight in weights]
    outputs_first = [tf.Variable(np.ascontiguousarray(weight.T)) for weight in weights]
    halved = [[tf.Variable(part) for part in np.split(weight, 2, 1)] for weight in weights]
    half = [tf.Variable(tf.cast(weight, tf.bfloat16)) for weight in weights]
    biases = [tf.Variable(np.zeros(weight.shape[1], np.float32)) for weight in weights]

    def chain(product: Callable[[Any, int], Any]) -> Any:
        def run(rows: Any) -> Any:
            for layer in range(LAYERS):
                number = len(SHAPES) * layer
                rows = tf.ensure_shape(product(rows, number)[:, :HIDDEN], [None, HIDDEN])
                for other in (1, 2, 3):
                    rows = product(rows, number + other)
            return rows

        signature = [tf.TensorSpec([None, HIDDEN], tf.float32)]
        return tf.function(run, input_signature=signature, autograph=False)

    def in_half(rows: Any, number: int) -> Any:
        return tf.cast(tf.matmul(tf.cast(rows, tf.bfloat16), half[number]), tf.float32)

    def packed(rows: Any, number: int) -> Any:
        # a convolution over one pixel: oneDNN packs its constants once, in an order that suits any number of rows
        return tf.nn.conv2d(rows[None, None], weights[number][None, None], 1, "VALID")[0, 0]

    def kept(rows: Any, number: int) -> Any:
        return packed_product(rows, stored[number].read_value(), biases[number].read_value(), "linear")

    def halves(rows: Any, number: int) -> Any:
        both = tf.split(biases[number].read_value(), 2)
        kernels = (kernel.read_value() for kernel in halved[number])
        products = [packed_product(rows, *part, "linear") for part in zip(kernels, both, strict=True)]
        return tf.concat(products, 1)

    ways = {
        "variables, fused bias": chain(lambda rows, i: tf.nn.bias_add(tf.matmul(rows, stored[i]), biases[i])),
        "variables": chain(lambda rows, i: tf.matmul(rows, stored[i])),
        "constants": chain(lambda rows, i: tf.matmul(rows, weights[i])),
        "constants, packed once": chain(packed),
        "bfloat16 variables": chain(in_half),
        "outputs first": chain(
            lambda rows, i: tf.nn.bias_add(tf.matmul(rows, outputs_first[i], transpose_b=True), biases[i])
        ),
    }
    return ways | ({"packed variables": chain(kept), "packed, in halves": chain(halves)} if few else {})


def measured(cores: int) -> Iterator[str]:
    """The table's lines."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(cores)
    clock = time.process_time if cores == 1 else time.perf_counter
    kind = "of CPU " if cores == 1 else f"on {cores} cores "
    yield f"Milliseconds {kind}for the 24 products, and GFLOP/s:"
    yield ""
    header_done = False
    for rows in ROWS:
        # made anew: oneDNN keeps constants in the order that suits the first call's rows
        ways = chains(rows <= PACKED_ROWS)
        data = tf.constant(np.random.default_rng(1).standard_normal((rows, HIDDEN)).astype(np.float32))
        if not header_done:
            columns = list(ways)
            yield f"| rows | {' | '.join(columns)} |"
            yield "|---:|" + "---:|" * len(columns)
            header_done = True
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(3):
            for run in ways.values():
                run(data)
        for _ in range(ROUNDS):
            for name, run in ways.items():
                started = clock()
                run(data)
                times[name].append(clock() - started)
        work = 2 * rows * LAYERS * sum(inner * outer for inner, outer in SHAPES)
        found = {name: median(seconds) for name, seconds in times.items()}
        cells = [
            f"{1e3 * found[name]:.2f} ({work / found[name] / 1e9:.0f})" if name in found else "" for name in columns
        ]
        yield f"| {rows} | {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=1, help="threads for operations beside each other")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/performance.md")
    arguments = parser.parse_args()
    if arguments.docs and arguments.cores > 1:
        parser.error("--docs: the document's table is that of one core")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
    lines = []
    for line in measured(arguments.cores):
        print(line, flush=True)
        lines.append(line)
    if arguments.docs:
        text = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(replace_section(text, "benchmarks/products.py", lines), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
