"""The tokenizer's part of a proof, beside the artifact's."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from toolkit.errors import ArtifactError, CheckError
from toolkit.proof import beside
from toolkit.proof.beside import tokenizer_checked

SPEC: Any = None


def checked(
    monkeypatch: pytest.MonkeyPatch, self_check: Any, on_failure: Any = lambda: None, progress: Any = None
) -> Any:
    monkeypatch.setattr(beside, "self_check", self_check)
    moved = progress or (lambda done, total: None)
    return tokenizer_checked([(SPEC, SPEC)], sample=1.0, progress=moved, on_failure=on_failure)


def test_the_block_runs_while_the_check_does_and_gets_its_report(monkeypatch: pytest.MonkeyPatch) -> None:
    reached, seen = threading.Event(), []

    def self_check(spec: Any, graph: Any, *, sample: float, progress: Any) -> str:
        assert reached.wait(30), "the block waited for the check"
        progress(1, 2)
        return "report"

    with checked(monkeypatch, self_check, progress=lambda *moved: seen.append(moved)) as report:
        reached.set()
        assert report.result() == "report"
    assert seen == [(1, 2)]


def test_a_difference_ends_what_the_block_waits_for_and_is_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def self_check(*args: Any, **options: Any) -> None:
        raise CheckError("tokens differ")

    def block() -> None:
        with checked(monkeypatch, self_check, on_failure=ended.set):
            assert ended.wait(30)
            raise ArtifactError("the process was stopped")

    with pytest.raises(CheckError, match="tokens differ"):
        block()


@pytest.mark.parametrize("error", [ArtifactError("cannot be loaded"), KeyboardInterrupt()])
def test_a_block_that_fails_by_itself_ends_the_check_and_is_told(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    started, ended = threading.Event(), threading.Event()

    def self_check(spec: Any, graph: Any, *, sample: float, progress: Any) -> None:
        started.set()
        try:
            for _ in range(3000):
                progress(0, 1)
                threading.Event().wait(0.01)
        finally:
            ended.set()

    def block() -> None:
        with checked(monkeypatch, self_check):
            assert started.wait(30)
            raise error

    with pytest.raises(type(error)) as raised:
        block()
    assert raised.value is error
    assert ended.is_set()
