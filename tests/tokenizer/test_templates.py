"""Rows are cut, on either side, and put between special tokens as the tokenizers package does it, for every kind."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import tensorflow as tf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from unigram_support import make_unigram

from toolkit.errors import UnsupportedError
from toolkit.tokenizer import TokenizerSource, build_tokenizer, read_tokenizer, reference_tokenizer
from toolkit.tokenizer.graph import TokenizerGraph
from toolkit.tokenizer.steps import AddSpecialTokens
from toolkit.tokenizer.texts import NATURAL

FIRST, LAST = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}
BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
ENDS = {"sep": ["</s>", 2], "cls": ["<s>", 0]}
ROBERTA = {"type": "RobertaProcessing", "trim_offsets": True, "add_prefix_space": False, **ENDS}


def _template(*items: dict[str, Any], several: bool = False) -> dict[str, Any]:
    special = {
        name: {"id": name, "ids": [number] * (1 + several), "tokens": [name] * (1 + several)}
        for name, number in (("<s>", 0), ("</s>", 2))
    }
    return {"type": "TemplateProcessing", "single": list(items), "pair": [TEXT, TEXT], "special_tokens": special}


def _sequence(*processors: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "processors": list(processors)}


TEMPLATES: dict[str, dict[str, Any] | None] = {
    "nothing": None,
    "offsets only": BYTES,
    "no special token": _template(TEXT),
    "the first alone": _template(FIRST, TEXT),
    "the last alone": _template(TEXT, LAST),
    "two at the end": _template(TEXT, LAST, FIRST),
    "each twice": _template(FIRST, TEXT, LAST, several=True),
    "BERT": {"type": "BertProcessing", **ENDS},
    "RoBERTa": ROBERTA,
    "Llama 3, Qwen3-Embedding": _sequence(BYTES, _template(TEXT, LAST)),
    "one around another": _sequence(ROBERTA, _template(TEXT), _template(FIRST, TEXT, LAST)),
}


def _wordpiece(train: Any) -> Tokenizer:
    return train(vocab_size=300, lowercase=True)  # type: ignore[no-any-return]


def _bytepair(train: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        NATURAL, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def _unigram(train: Any) -> Tokenizer:
    return make_unigram(size=300, normalizer=normalizers.Lowercase())


@pytest.fixture(scope="module", params=[_wordpiece, _bytepair, _unigram], ids=["WordPiece", "BPE", "Unigram"])
def built(request: pytest.FixtureRequest, train: Any) -> tuple[dict[str, Any], TokenizerGraph]:
    """A tokenizer (JSON) and its graph."""
    root = json.loads(request.param(train).to_str())
    return root, build_tokenizer(read_tokenizer(TokenizerSource(json.dumps(root), "tokenizer.json", None)))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_rows_are_cut_and_completed(built, template, side):
    root, graph = built
    text = json.dumps({**root, "post_processor": TEMPLATES[template]})
    texts = ["", "a", "the quick brown fox", "jumps over the lazy dog " * 9, " "]
    for max_length in (6, 7, 24, None):
        spec = read_tokenizer(TokenizerSource(text, "tokenizer.json", max_length, truncation_side=side))
        last = AddSpecialTokens(spec.template.before, spec.template.after, spec.max_length, spec.truncation_side)
        packed = TokenizerGraph((*graph.steps[:-1], last), spec.pad_id, graph.engine)(tf.constant(texts))
        rows = [packed.ids.numpy()[a:b].tolist() for a, b in itertools.pairwise(packed.row_splits.numpy())]
        assert rows == [row.ids for row in reference_tokenizer(spec).encode_batch(texts)]
        whole = reference_tokenizer(spec, max_length=None).encode_batch(texts)
        assert packed.num_tokens.numpy().tolist() == [len(row.ids) for row in whole]


@pytest.mark.parametrize(
    ("items", "field"),
    [
        ((FIRST, LAST), "single"),
        ((TEXT, TEXT), "single"),
        ((TEXT, {"SpecialToken": {"id": "</s>", "type_id": 2}}), "single.SpecialToken.type_id"),
    ],
)
def test_templates_for_anything_but_one_text_are_refused_by_name(items, field):
    root = json.loads(make_unigram(size=300, normalizer=normalizers.Lowercase()).to_str())
    root["post_processor"] = _template(*items)
    with pytest.raises(UnsupportedError) as caught:
        read_tokenizer(TokenizerSource(json.dumps(root), "tokenizer.json", 64))
    assert (caught.value.file, caught.value.field) == ("tokenizer.json", f"post_processor.{field}")


@pytest.mark.parametrize("behind", [_template(TEXT, LAST), ROBERTA], ids=["template", "RoBERTa"])
def test_what_the_package_would_take_for_a_pair_of_texts_is_refused_by_name(behind):
    root = json.loads(make_unigram(size=300, normalizer=normalizers.Lowercase()).to_str())
    root["post_processor"] = _sequence(_template(FIRST, TEXT), BYTES, behind)
    with pytest.raises(UnsupportedError, match=r"post_processor\.type is '.* behind TemplateProcessing'"):
        read_tokenizer(TokenizerSource(json.dumps(root), "tokenizer.json", 64))
