"""The client stays light: what it imports and what that weighs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fake_serving import FakeServing

import toolkit

# the package under test, wherever it is installed
PACKAGES = Path(toolkit.__file__).parents[1]
HEAVY = ("tensorflow", "torch", "transformers", "tensorflow_serving", "keras", "pyarrow", "pandas")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGES, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_client_stays_under_60_megabytes_and_loads_nothing_heavy() -> None:
    # VmHWM and not ru_maxrss, which a child inherits from the process that forked it
    kilobytes, heavy = run(
        "import sys, toolkit.client\n"
        "status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        f"print(status['VmHWM'].split()[0], [m for m in {HEAVY} if m in sys.modules])"
    ).split(" ", 1)
    assert int(kilobytes) < 60 * 1024
    assert heavy == "[]"


def test_a_full_session_loads_no_tensorflow(fake: FakeServing) -> None:
    heavy = run(
        "import asyncio, sys\n"
        "from toolkit.client import AsyncClient, Client\n"
        f"for url in ({fake.grpc_url!r}, {fake.rest_url!r}):\n"
        "    with Client(url, 'fake') as client:\n"
        "        client.wait_until_ready(); client.embed(['a']); client.embed([]); client.detailed(['a'])\n"
        "        client.tokenize(['a']); client.rerank('q', ['a']); client.status(); client.metadata()\n"
        "        client.predict({'x': [1.0]}, signature='numbers') if url.startswith('http') else None\n"
        "    async def go():\n"
        "        async with AsyncClient(url, 'fake') as client:\n"
        "            await client.embed(['a'])\n"
        "    asyncio.run(go())\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    assert heavy == "[]"


def test_the_client_lives_in_one_process_with_tensorflow_serving_api(fake: FakeServing) -> None:
    for modules in (
        "toolkit.client, tensorflow_serving.apis.predict_pb2",
        "tensorflow_serving.apis.predict_pb2, toolkit.client",
    ):
        shape = run(
            f"import {modules}\n"
            f"print(toolkit.client.Client({fake.grpc_url!r}, 'fake').embed(['a']).shape)\n"
            "tensorflow_serving.apis.predict_pb2.PredictRequest()"
        )
        assert shape == "(1, 8)"
