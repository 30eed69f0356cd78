"""Calibration texts: a file that cannot be used is refused by name; the built-in set is always the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.corpus.calibration import built_in_texts, read_texts
from toolkit.corpus.check import check_texts
from toolkit.errors import InputError


def test_a_file_gives_its_lines_without_blank_ones(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_bytes("\ufeffone\r\n\n  \nzwölf words\n".encode())
    found = read_texts(file)
    assert found.texts == ("one", "zwölf words")
    assert found.source == str(file)
    assert len(found.digest) == 64


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file"),
        (b"", "holds no text"),
        (b" \n\n", "holds no text"),
        (b"a\n\xff", "UTF-8"),
    ],
)
def test_an_unusable_file_is_refused_by_name(tmp_path: Path, content: bytes | None, reason: str) -> None:
    file = tmp_path / "texts.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        read_texts(file)
    assert str(file) in str(caught.value)


def test_the_built_in_set_is_varied_reproducible_and_not_the_checks() -> None:
    texts = built_in_texts(128)
    assert texts == built_in_texts(128)
    lengths = [len(text.split()) for text in texts.texts]
    assert min(lengths) == 1
    assert max(lengths) > 60
    assert len(set(texts.texts) & set(check_texts(128))) < len(texts.texts) / 10
