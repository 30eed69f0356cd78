"""Servers and models for these tests."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from serving_support import golden_options, save_slow_model

from toolkit.server import Server, ServerOptions

StartServer = Callable[..., Server]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--server-address",
        help="GRPC_HOST:PORT,REST_URL of a running server with the recorded models: the conformance suite asks it",
    )


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Starts servers on free ports of this machine; they are stopped after the test."""
    with ExitStack() as stack:

        def start(**options: Any) -> Server:
            defaults: dict[str, Any] = {"port": 0, "rest_api_port": 0, "host": "127.0.0.1"}
            return stack.enter_context(Server(ServerOptions(**(defaults | options))))

        yield start


@pytest.fixture(scope="module")
def golden_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the recorded server's models and options."""
    with Server(golden_options(tmp_path_factory.mktemp("golden"))) as server:
        yield server


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that works as long as it is asked to (see `save_slow_model`), as ``<folder>/1``."""
    folder = tmp_path_factory.mktemp("slow")
    save_slow_model(folder / "1")
    return folder
