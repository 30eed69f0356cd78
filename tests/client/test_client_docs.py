"""docs/client.md says what is true: its examples run, its tables name what there is."""

from __future__ import annotations

import re
from pathlib import Path

from fake_serving import FakeServing

import toolkit.errors
from toolkit.client import AsyncClient, Client, Split
from toolkit.client.bulk.rows import FORMATS
from toolkit.client.bulk.sinks import SINKS
from toolkit.client.transport.grpc import RENEW_SECONDS

PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text()


def test_the_examples_run(fake: FakeServing) -> None:
    examples = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        code = example.replace("grpc://localhost:8500", fake.grpc_url).replace("http://localhost:8501", fake.rest_url)
        scope: dict[str, object] = {}
        exec(code.replace("my-model", "fake"), scope)
        assert scope["vectors"].shape == (2, 8)  # type: ignore[attr-defined]


def test_every_method_error_and_format_is_in_the_page() -> None:
    for kind in (Client, AsyncClient):
        for name in vars(kind):
            if not name.startswith("_") and name not in ("run", "pieces", "close"):
                assert f"`{name}(" in PAGE, name
    for name in toolkit.errors.__all__:
        kind = getattr(toolkit.errors, name)
        if issubclass(kind, toolkit.errors.ClientError) and kind is not toolkit.errors.ClientError:
            assert f"`{name}`" in PAGE, name
    for suffix in {*FORMATS, *SINKS}:
        assert f"`.{suffix}`" in PAGE, suffix
    assert f"`Split(rows={Split.rows}, bytes=256 KiB)`" in PAGE
    assert f"`Split(in_flight={Split.in_flight})`" in PAGE
    assert Split.bytes == 256 << 10
    assert f"every {RENEW_SECONDS:.0f} s while it is used" in PAGE
