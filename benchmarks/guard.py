"""What the checks at the start of every signature cost: graphs with them beside graphs without, turn about.

    python -m benchmarks.guard MODEL [--rounds 4000]

MODEL is a checkpoint's folder or hub id. Compared are a graph that hands its text back, where the checks are all the
work, and the model. The graphs are written by this version and run in one process, in sessions, as TF Serving runs
them; which one begins changes from round to round. Prints the median times and the medians of the rounds' ratios, by
the clock and by the CPU time of all threads. A second graph without checks shows how far two that are alike differ.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from toolkit.artifact.savedmodel import write_model
from toolkit.corpus.check import SHORT
from toolkit.encoder.batching_options import Batching
from toolkit.encoder.layout import Layout
from toolkit.graph import model as model_module
from toolkit.graph.guard import guarded
from toolkit.graph.tasks import read_spec, serving_model
from toolkit.graph.tasks.embed import EmbedSpec
from toolkit.signatures import SIGNATURES
from toolkit.source.checkpoint import open_checkpoint

VARIANTS = ("without", "without again", "with")
Run = Callable[..., object]


def opened(folder: str) -> Run:
    """``serving_default`` of an artifact."""
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        signature = tf.compat.v1.saved_model.load(session, ["serve"], folder).signature_def["serving_default"]
    feeds = [tensor.name for tensor in signature.inputs.values()]
    fetches = [tensor.name for tensor in signature.outputs.values()]
    made: Run = session._make_callable_from_options(config_pb2.CallableOptions(feed=feeds, fetch=fetches))
    return made


def model(spec: EmbedSpec, checks: bool) -> Run:
    """The model, with its checks or without."""
    guard = guarded if checks else lambda function, inputs: function
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(model_module, "guarded", guard):
        write_model(serving_model(spec, Layout(batching=Batching())), Path(folder))
        return opened(folder)


def nothing(checks: bool) -> Run:
    """A graph that hands its text back, with the checks or without."""

    def same(text: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"text": tf.identity(text)}

    module = tf.Module()
    module.same = tf.function(guarded(same, SIGNATURES[0].inputs) if checks else same, autograph=False)
    signature = module.same.get_concrete_function(tf.TensorSpec([None], tf.string, "text"))
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=signature)
        return opened(folder)


def compare(title: str, make: Callable[[bool], Run], rows: int, rounds: int) -> None:
    """Run all variants turn about and print what they took."""
    texts = np.array([text.encode() for text in (SHORT * rows)[:rows]], object)
    runs = {variant: make(variant == "with") for variant in VARIANTS}
    times = {variant: np.zeros((rounds, 2)) for variant in VARIANTS}
    for number in range(-20, rounds):  # those below 0 warm up
        for variant in VARIANTS[:: 1 if number % 2 else -1]:
            wall, cpu = time.perf_counter(), time.process_time()
            runs[variant](texts)
            if number >= 0:
                times[variant][number] = time.perf_counter() - wall, time.process_time() - cpu
    for variant, seconds in times.items():
        clock, cpu = np.median(seconds, axis=0) * 1e6
        ratio, cpu_ratio = np.median(seconds / times["without"], axis=0)
        print(f"{title}, {rows} texts, {variant}: {clock:.1f} µs ({ratio:.4f}), CPU {cpu:.1f} µs ({cpu_ratio:.4f})")


def main() -> None:
    """Compare both graphs with one text and with 32."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=4000, help="with one text; a 32nd of them with 32")
    options = parser.parse_args()
    spec = read_spec(open_checkpoint(options.model))
    for rows in (1, 32):
        compare("nothing", nothing, rows, options.rounds)
        compare("model", lambda checks: model(spec, checks), rows, options.rounds // rows)


if __name__ == "__main__":
    main()
