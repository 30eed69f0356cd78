"""Pairs are cut and put together as the tokenizers package does it, for every length of both texts."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import tensorflow as tf
from support import byte_level_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import BertProcessing, RobertaProcessing, TemplateProcessing

from toolkit.errors import UnsupportedError
from toolkit.tokenizer import TokenizerSource, TokenizerSpec, read_tokenizer, reference_tokenizer
from toolkit.tokenizer.pairs import STRATEGIES, read_pairs
from toolkit.tokenizer.steps import Tokens

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
LONGEST = 9
LENGTHS = range(LONGEST + 1)
IDS = [("[CLS]", 2), ("[SEP]", 3)]

TEMPLATES: dict[str, Any] = {
    "BERT": TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=IDS),
    "BERT's own": BertProcessing(("[SEP]", 3), ("[CLS]", 2)),
    "RoBERTa": RobertaProcessing(("[SEP]", 3), ("[CLS]", 2)),
    "T5": TemplateProcessing(single="$A [SEP]", pair="$A [SEP] $B [SEP]", special_tokens=IDS),
    "the second text first": TemplateProcessing(single="[CLS] $A", pair="[CLS]:1 $B:1 [SEP] $A", special_tokens=IDS),
    "none": None,
}


def tokenizer(template: str) -> Tokenizer:
    """Words ``a0`` to ``a8`` and ``b0`` to ``b8`` of one token each."""
    words = [f"{letter}{number}" for letter in "ab" for number in range(LONGEST)]
    vocab = {token: number for number, token in enumerate([*SPECIALS, *words, "a", "b"])}
    made = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if TEMPLATES[template] is not None:
        made.post_processor = TEMPLATES[template]
    return made


def spec_of(template: str, side: str = "right") -> TokenizerSpec:
    source = TokenizerSource(tokenizer(template).to_str(), "tokenizer.json", None, truncation_side=side)  # type: ignore[arg-type]
    return read_tokenizer(source)


def text(letter: str, length: int) -> str:
    return " ".join(f"{letter}{number}" for number in range(length))


def tokens_of(spec: TokenizerSpec) -> Tokens:
    """Of ``a``s of every length, then of ``b``s."""
    reference = reference_tokenizer(spec, max_length=None)
    rows = [
        reference.encode(text(letter, length), add_special_tokens=False).ids for letter in "ab" for length in LENGTHS
    ]
    splits = list(itertools.accumulate(map(len, rows), initial=0))
    return Tokens(tf.constant([token for row in rows for token in row], tf.int32), tf.constant(splits, tf.int64))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_every_pair_of_lengths_is_cut_and_joined_as_the_original_does_it(template: str, side: str) -> None:
    spec = spec_of(template, side)
    lengths = list(itertools.product(LENGTHS, LENGTHS))
    first, second = (tf.constant(column) for column in zip(*lengths, strict=True))
    tokens = tokens_of(spec)
    for strategy, room in itertools.product(STRATEGIES, (1, 2, 3, 6, 7, 12, 18)):
        size = reference_tokenizer(spec, max_length=None).num_special_tokens_to_add(True)
        reference = reference_tokenizer(spec, max_length=None)
        reference.enable_truncation(room + size, strategy=strategy, direction=side)
        expected, taken = [], []
        for number, (a, b) in enumerate(lengths):
            try:
                row = reference.encode(text("a", a), text("b", b))
            except Exception:  # of two texts the one that alone may be cut is too short
                continue
            taken.append(number)
            expected.append((row.ids, row.type_ids))
        assert len(taken) == len(lengths) or strategy != "longest_first"
        pairs = read_pairs(spec, room + size, strategy, token_types=True)
        packed = pairs.pack(tokens, tf.gather(first, taken), tf.gather(second, taken) + len(LENGTHS))
        splits = packed.row_splits.numpy().tolist()
        found = [
            (packed.ids[start:end].numpy().tolist(), packed.type_ids[start:end].numpy().tolist())
            for start, end in itertools.pairwise(splits)
        ]
        assert found == expected, (strategy, room)


def test_without_token_types_all_are_0() -> None:
    pairs = read_pairs(spec_of("BERT"), 9, STRATEGIES[0], token_types=False)
    assert {part.type_id for part in pairs.parts} == {0}
    assert str(pairs) == "[CLS] A [SEP] B [SEP], at most 9 tokens, cut longest_first on the right"


@pytest.mark.parametrize(("strategy", "first", "second"), [("only_second", 9, 2), ("only_first", 2, 9)])
def test_a_pair_of_which_the_one_text_that_may_be_cut_is_too_short_is_refused(
    strategy: str, first: int, second: int
) -> None:
    spec = spec_of("BERT")
    pairs = read_pairs(spec, 10, strategy, token_types=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="text alone is cut, to 10 tokens in all"):
        pairs.pack(tokens_of(spec), tf.constant([first]), tf.constant([second + len(LENGTHS)]))


def test_a_limit_that_leaves_room_for_no_token_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"max_length is 3.*more than 3"):
        read_pairs(spec_of("BERT"), 3, STRATEGIES[0], token_types=True)


def test_a_template_with_a_text_twice_is_refused() -> None:
    made = tokenizer("none")
    made.post_processor = TemplateProcessing(single="$A", pair="$A:0 $B $A:1", special_tokens=[])
    spec = read_tokenizer(TokenizerSource(made.to_str(), "tokenizer.json", None))
    with pytest.raises(UnsupportedError, match="both texts of a pair once"):
        read_pairs(spec, 9, STRATEGIES[0], token_types=True)


def test_byte_level_pairs_have_two_separators() -> None:
    spec = read_tokenizer(TokenizerSource(byte_level_tokenizer().to_str(), "tokenizer.json", 48))
    assert str(read_pairs(spec, 48, STRATEGIES[0], token_types=False)).startswith("<s> A </s> </s> B </s>,")
