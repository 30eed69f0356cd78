"""Normalizers of Unigram tokenizers, in the orders in which tokenizers have them, are exact or refused by name."""

from __future__ import annotations

import json
import lzma
from collections.abc import Sequence
from typing import Any

import pytest
from marks import long_but
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from unigram_support import DATA, make_unigram

from toolkit.errors import UnsupportedError
from toolkit.tokenizer import TokenizerSource, build_tokenizer, read_tokenizer, self_check
from toolkit.tokenizer.texts import NATURAL_FORMS, TRICKY

N = normalizers
COLLAPSE = N.Replace(Regex(" {2,}"), " ")
LINES = N.Replace(Regex(r"\s{2,}|[\n\r\t]"), " ")
CHARSMAP = "the precompiled map"

# After Metaspace alone: what files have, and what transformers builds by the tokenizer's class.
SPACES: dict[str, list[Any]] = {
    "DeBERTa-v3, its file": [N.Strip(), CHARSMAP, COLLAPSE],
    "DeBERTa-v3 and BARThez by class": [LINES, N.NFC(), N.Strip(left=False, right=True)],
    "stripped after the map": [CHARSMAP, N.Strip(), COLLAPSE],
    "tokenizers' SentencePiece class": [N.Nmt(), N.NFKC(), COLLAPSE],
    "BigBird by class": [N.Strip(left=False, right=False), N.Replace(Regex(" {2,}"), "▁")],
    "Pegasus by class": [N.Replace(Regex(r"\n"), " "), COLLAPSE],
    "prepended": [N.Prepend("▁"), N.Replace(" ", "▁")],
    "everything": [
        *(N.NFKD(), N.Lowercase(), N.Replace("e", "th"), N.StripAccents(), N.NFC(), N.Prepend("a\\0 ")),
        *(N.Replace("\u0301", ""), N.Strip(left=True, right=False), N.Nmt()),
    ],
}
# After WhitespaceSplit and Metaspace.
WORDS: dict[str, list[Any]] = {
    "NFKC": [N.NFKC()],
    "NFC in lower case": [N.NFC(), N.Lowercase()],
    "NFD": [N.NFD()],
    "NFKD and the map": [N.Strip(), N.NFKD(), COLLAPSE, CHARSMAP, N.Strip()],
    "in a circle": [N.NFKC(), N.StripAccents(), COLLAPSE, N.NFKD(), N.Lowercase(), N.NFC(), LINES],
}
SOME = ("DeBERTa-v3, its file", "DeBERTa-v3 and BARThez by class", "everything", "NFKD and the map", "in a circle")
AROUND = [
    "",
    " ",
    "  ",
    "\t",
    "\n\r\n",
    "\u3000 ",
    "\u200b",
    "a",
    "e\u0301",
    "\u0301",
    "\u0323",
    "ﬁ",
    "▁",
    "<m",
    "``",
    "covid19",
]
TOKENS = [
    *(f"{before}<mask>{after}" for before in AROUND for after in AROUND),
    *(f"{before}a{between}<s>{between}b{after}" for before in AROUND for between in AROUND for after in AROUND[:6]),
    *(f"{one}{two}" for one in AROUND for two in AROUND),
]


def _sequence(chain: Sequence[Any], charsmap: bytes) -> Any:
    return N.Sequence([N.Precompiled(charsmap) if part is CHARSMAP else part for part in chain])


@pytest.mark.parametrize("form", long_but(SOME, SPACES))
def test_normalizers_before_metaspace(charsmap, equal, hard_texts, form):
    normalizer = _sequence(SPACES[form], charsmap)
    tokenizer = make_unigram(charsmap, size=1500, normalizer=normalizer, pre_tokenizer=pre_tokenizers.Metaspace())
    if not any(isinstance(part, N.Prepend) for part in SPACES[form]):  # before the token, too: refused
        tokenizer.add_tokens([AddedToken("covid19", normalized=True)])
    equal(tokenizer, [*TOKENS, *TRICKY, *NATURAL_FORMS, *hard_texts[:2500:2], *hard_texts[2500::9]])


@pytest.mark.parametrize("form", long_but(SOME, WORDS))
def test_normalizers_before_white_space_is_split_at(charsmap, equal, hard_texts, form):
    tokenizer = make_unigram(charsmap, size=1500, normalizer=_sequence(WORDS[form], charsmap))
    equal(tokenizer, [*TOKENS, *TRICKY, *NATURAL_FORMS, *hard_texts[:2500:2], *hard_texts[2500::9]])


@pytest.mark.long
@pytest.mark.parametrize("form", ["as the file has them", "DeBERTa-v3, its file", "DeBERTa-v3 and BARThez by class"])
def test_a_real_vocabulary_is_exact_on_the_whole_self_check(charsmap, form):
    root = json.loads(lzma.decompress((DATA / "albert.json.xz").read_bytes()))
    if form in SPACES:
        root["normalizer"] = json.loads(_sequence(SPACES[form], charsmap).__getstate__())
        root["pre_tokenizer"] = json.loads(pre_tokenizers.Metaspace().__getstate__())
    spec = read_tokenizer(TokenizerSource(json.dumps(root), "tokenizer.json", 64))
    assert self_check(spec, build_tokenizer(spec)).texts > 1_000_000


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ([N.Replace(Regex("[aeiou]"), "")], r"normalizer\.pattern is '\[aeiou\]'"),
        ([N.Replace("", "x")], r"normalizer\.pattern is ''"),
        ([N.BertNormalizer()], r"normalizer\.type is 'BertNormalizer'"),
        ([CHARSMAP, N.NFKC()], r"normalizer\.type is 'NFKC after Precompiled'"),
        ([CHARSMAP, N.Prepend("a")], r"normalizer\.type is 'Prepend after Precompiled'"),
        ([CHARSMAP, CHARSMAP], r"normalizer\.type is 'Precompiled after Precompiled'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_exact_is_refused_by_name(xlmr, charsmap, chain, message):
    root = json.loads(xlmr.to_str())
    root["normalizer"] = json.loads(_sequence(chain, charsmap).__getstate__())
    with pytest.raises(UnsupportedError, match=rf"tokenizer\.json: {message}.*supported: "):
        read_tokenizer(TokenizerSource(json.dumps(root), "tokenizer.json", 64))


def test_each_step_prints_one_line(charsmap):
    normalizer = _sequence(SPACES["everything"], charsmap)
    tokenizer = make_unigram(charsmap, size=1500, normalizer=normalizer, pre_tokenizer=pre_tokenizers.Metaspace())
    spec = read_tokenizer(TokenizerSource(tokenizer.to_str(), "tokenizer.json", 64))
    lines = [str(step) for step in build_tokenizer(spec).steps]
    assert "strip white space on the left" in lines
    assert "normalize to NFKD: 0 pairs compose" in lines
    assert all("\n" not in line and len(line) < 200 for line in lines)
