"""Reading a tokenizer: what is found, and what is refused by name."""

from __future__ import annotations

import json

import pytest
from tokenizers import AddedToken, Tokenizer

from toolkit.errors import SourceError, UnsupportedError
from toolkit.tokenizer import TokenizerSource, read_tokenizer, reference_tokenizer


def test_what_is_read(plain, source):
    spec = read_tokenizer(source(plain, 32))
    assert [token.content for token in spec.added_tokens] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert (spec.template.before, spec.template.after) == ((("[CLS]", 2),), (("[SEP]", 3),))
    assert (spec.max_length, spec.truncation_side, spec.pad_id, spec.model.prefix) == (32, "right", 0, "##")
    assert "vocab" not in repr(spec)


def test_truncation_and_padding_of_the_file_do_not_count(plain, source):
    tokenizer = type(plain).from_str(plain.to_str())
    tokenizer.enable_truncation(4, direction="left")
    tokenizer.enable_padding(pad_id=3, length=50)
    spec = read_tokenizer(source(tokenizer, None))
    assert spec.pad_id == 3
    assert len(reference_tokenizer(spec).encode("a " * 20).ids) == 22


@pytest.mark.parametrize("max_length", [None, 2**31, 10**30])
def test_no_limit(plain, source, max_length):
    assert read_tokenizer(source(plain, max_length)).max_length is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model": {"type": "WordPiece"}}', "null"])
def test_what_is_no_tokenizer(text):
    with pytest.raises(SourceError, match=r"^x\.json: not a tokenizer"):
        read_tokenizer(TokenizerSource(text, "x.json", 8))


_REFUSED = {
    "normalizer.type": [
        ("normalizer", {"type": "NFC"}),
        ("normalizer", {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, {"type": "NFKC"}]}),
        ("normalizer", {"type": "Strip", "strip_left": True, "strip_right": True}),
        ("normalizer", {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}),
    ],
    "pre_tokenizer.type": [
        ("pre_tokenizer", None),
        ("pre_tokenizer", {"type": "Whitespace"}),
        ("pre_tokenizer", {"type": "Digits", "individual_digits": True}),
        ("pre_tokenizer", {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True}),
    ],
    "pre_tokenizer.behavior": [("pre_tokenizer", {"type": "Punctuation", "behavior": "Removed"})],
    "pre_tokenizer.individual_digits": [
        (
            "pre_tokenizer",
            {
                "type": "Sequence",
                "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "Digits", "individual_digits": False}],
            },
        )
    ],
    "model.type": [("model", {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"})],
    "model.unk_token": [("model.unk_token", "<unk>")],
    "model.max_input_chars_per_word": [("model.max_input_chars_per_word", 0), ("model.max_input_chars_per_word", 1001)],
    "post_processor.single": [("post_processor.single", [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}])],
    "post_processor.single.Sequence.type_id": [("post_processor.single", [{"Sequence": {"id": "A", "type_id": 1}}])],
}


@pytest.mark.parametrize(
    ("field", "path", "value"), [(f, *change) for f, changes in _REFUSED.items() for change in changes]
)
def test_refusals_name_file_field_value_and_what_is_supported(plain, field, path, value):
    root = json.loads(plain.to_str())
    if path == "model":
        root["added_tokens"] = []
        root["post_processor"] = None
    *parents, last = path.split(".")
    node = root
    for parent in parents:
        node = node[parent]
    node[last] = value
    with pytest.raises(UnsupportedError) as caught:
        read_tokenizer(TokenizerSource(json.dumps(root), "tokenizer.json", 8))
    assert caught.value.field == field
    assert str(caught.value).startswith(f"tokenizer.json: {field} is ")
    assert caught.value.supported


@pytest.mark.parametrize("max_length", [1, 0, -1])
def test_no_room_for_the_special_tokens(plain, source, max_length):
    with pytest.raises(UnsupportedError, match=r"max_length is .*at least 2"):
        read_tokenizer(source(plain, max_length))


def test_an_unknown_truncation_side(plain, source):
    with pytest.raises(UnsupportedError, match="truncation_side is 'both'"):
        read_tokenizer(source(plain, 8, truncation_side="both"))


def test_lowercase_is_added_once(plain, source):
    spec = read_tokenizer(source(plain, 8, lowercase=True))
    kinds = [part["type"] for part in json.loads(spec.json)["normalizer"]["normalizers"]]
    assert kinds == ["Lowercase", "BertNormalizer"]
    again = read_tokenizer(TokenizerSource(spec.json, "tokenizer.json", 8, lowercase=True))
    assert again.json == spec.json


@pytest.mark.parametrize("normalized", [False, True])
def test_white_space_that_another_token_may_take_whole_is_refused(plain, source, normalized):
    tokenizer = Tokenizer.from_str(plain.to_str())
    space = AddedToken("  ", lstrip=True, normalized=normalized)
    tokenizer.add_tokens([space, AddedToken("_", rstrip=True, normalized=normalized)])
    with pytest.raises(UnsupportedError, match=r"added_tokens.content is '  '.*rstrip"):
        read_tokenizer(source(tokenizer, 8))
