from __future__ import annotations

from pathlib import Path

import pytest
from known import Front, front_of


@pytest.fixture
def front(request: pytest.FixtureRequest, tmp_path: Path) -> Front:
    """The known server's protocol that a test is parametrized with."""
    return front_of(request.param, tmp_path)
