"""What the tests need from the machine."""

from __future__ import annotations

import os

import pytest


def missing(what: str, how: str) -> None:
    """A tool that the tests need is not there: a failure in CI, where it must be; elsewhere a reason to skip."""
    text = f"{what} is not installed; run: {how}"
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)
