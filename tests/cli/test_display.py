"""What commands say while they work: notes, and how long it will take."""

from __future__ import annotations

import time
import warnings

import pytest

from toolkit.cli.display import check_table, notices_shown, stage_progress
from toolkit.errors import SourceNotice
from toolkit.proof.clusters import PooledFigure
from toolkit.proof.comparison import Bounds, Comparison, SparseFigure
from toolkit.proof.quantized import QuantizedFigure


def test_where_no_bar_is_seen_the_time_left_of_a_long_stage_is_printed_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with stage_progress() as progress:
        for seconds, stage, done in [
            *((0, "reading", 0), (1, "checking the tokenizer", 0), (100, "checking the tokenizer", 10)),
            *((101, "checking the tokenizer", 20), (110, "checking the tokenizer", 30)),
            *((120, "checking the tokenizer", 50), (141, "checking", 0), (200, "checking", 50), (205, "checking", 90)),
        ]:
            now[0] = float(seconds)
            progress(stage, done, 100 if done else 0)
    # 20 of 100 in 10 s, after what went before the first step; the last stage is done too soon to be worth a line
    assert capsys.readouterr().err == "checking the tokenizer: about 35 s left\n"


def test_a_notice_is_printed_as_a_note_and_other_warnings_as_ever(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as others:
        warnings.simplefilter("always")
        with notices_shown():
            warnings.warn("no modules.json", SourceNotice, stacklevel=1)
            warnings.warn("another", UserWarning, stacklevel=1)
    assert [str(item.message) for item in others] == ["another"]
    assert capsys.readouterr().err == "note: no modules.json\n"


def test_a_checks_table_counts_what_rounding_may_decide_either_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    figures = {
        "quantized": (QuantizedFigure("embedding_int8", 640, 3),),
        "sparse": (SparseFigure("sparse", 900, 1),),
        "pooled": (PooledFigure("multi_vector_document", 12, 2),),
    }
    check_table(Comparison(["a text"], Bounds()).report(**figures))
    shown = capsys.readouterr().out
    for words in ("3 of 640 a step off", "1 of 900 active on one side", "2 of 12 pooled otherwise, at near ties"):
        assert words in shown
