"""A tokenizer like XLM-R's."""

from __future__ import annotations

import lzma

import pytest
from support import export_with_tokenizer
from tokenizers import Tokenizer
from unigram_support import CHARSMAP, make_unigram

from toolkit.convert import Export


@pytest.fixture(scope="session")
def charsmap() -> bytes:
    """The map ``nmt_nfkc`` that SentencePiece puts into its models, which XLM-R has."""
    return lzma.decompress(CHARSMAP.read_bytes())


@pytest.fixture(scope="session")
def xlmr(charsmap: bytes) -> Tokenizer:
    return make_unigram(charsmap)


@pytest.fixture(scope="session")
def exported(xlmr: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """A small model with this tokenizer, exported."""
    return export_with_tokenizer(xlmr, tmp_path_factory.mktemp("exported"))
