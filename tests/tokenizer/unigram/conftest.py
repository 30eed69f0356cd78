"""A tokenizer like XLM-R's."""

from __future__ import annotations

import lzma

import pytest
from tokenizers import Tokenizer
from unigram_support import CHARSMAP, make_unigram


@pytest.fixture(scope="session")
def charsmap() -> bytes:
    """The map ``nmt_nfkc`` that SentencePiece puts into its models, which XLM-R has."""
    return lzma.decompress(CHARSMAP.read_bytes())


@pytest.fixture(scope="session")
def xlmr(charsmap: bytes) -> Tokenizer:
    return make_unigram(charsmap)
