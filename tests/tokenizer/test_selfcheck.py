"""The self-check finds what is wrong and says where."""

from __future__ import annotations

import dataclasses

import pytest

from toolkit.errors import CheckError
from toolkit.tokenizer import TokenizerSource, build_tokenizer, read_tokenizer, self_check


@pytest.fixture(scope="module")
def spec(plain, source):
    return read_tokenizer(source(plain, 32))


def test_a_right_graph_passes_and_reports_progress(spec):
    seen = []
    report = self_check(
        spec, build_tokenizer(spec), sample=0.01, progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (report.texts, report.texts)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert str(report).startswith(f"{report.texts:,} texts, 0 differences")
    assert dict(report.groups)["vocabulary"] == len(spec.model.vocab)


@pytest.mark.parametrize(
    ("change", "step"),
    [
        ({"max_length": 31}, "cut to 31 tokens"),
        ({"template": "none"}, "add special tokens|cut to 32"),
        ({"json": ("[MASK]", "[MUSK]")}, "find in the text"),
        ({"json": ('"lowercase": true', '"lowercase": false')}, "normalize"),
        ({"json": ('"max_input_chars_per_word": 100', '"max_input_chars_per_word": 99')}, "words of more than 99"),
        ({"json": ('"t": ', '"§": ')}, "WordPiece"),
    ],
    ids=["length", "template", "added", "normalizer", "limit", "vocab"],
)
def test_a_wrong_graph_is_refused_with_the_diverging_step(spec, change, step):
    wrong = dataclasses.replace(spec, **{key: value for key, value in change.items() if key == "max_length"})
    if "json" in change:
        before, after = change["json"]
        assert before in spec.json
        wrong = read_tokenizer(TokenizerSource(spec.json.replace(before, after), "tokenizer.json", 32))
    if "template" in change:
        wrong = dataclasses.replace(spec, template=type(spec.template)(before=spec.template.before))
    with pytest.raises(CheckError, match=f"graph \\[.*\\], original \\[.*\\]; first diverging step: .*({step})"):
        self_check(spec, build_tokenizer(wrong), sample=0.01)


def test_the_text_is_shortened(spec):
    wrong = read_tokenizer(TokenizerSource(spec.json.replace("[MASK]", "[XASK]"), "tokenizer.json", 32))
    with pytest.raises(CheckError, match=r"for '\[MASK\]': graph"):
        self_check(spec, build_tokenizer(wrong), sample=0.01)
