"""What the server asks of its process: where its threads run, and what the garbage collector looks at."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from serving_support import copy_version, text_request, wait_until
from tensorflow_serving.apis import prediction_service_pb2_grpc

from toolkit.server import Server
from toolkit.server.watching.process import Front, settle

StartServer = Any

BATCHING = "max_batch_size { value: 8 } batch_timeout_micros { value: 1000 } num_batch_threads { value: 2 }"

several_cpus = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="there is no choice of CPUs",
)


def ask(server: Server) -> int:
    """Once over gRPC, once over REST; which version answered."""
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        answer = stub.Predict(text_request(b"a", b"b"), timeout=30)
    url = f"http://127.0.0.1:{server.rest_port}/v1/models/echo:predict"
    assert httpx.post(url, json={"instances": ["a"]}).status_code == 200
    return int(answer.model_spec.version.value)


@pytest.fixture
def others() -> set[threading.Thread]:
    """The threads of other tests' servers."""
    return set(threading.enumerate())


def cpus_of_front(others: set[threading.Thread]) -> list[set[int]]:
    """Of each Python thread that answers requests."""
    mine = set(threading.enumerate()) - others
    front = [thread for thread in mine if thread.name.startswith(("grpc_", "rest"))]
    names = {thread.name.split("_")[0] for thread in front}
    assert names == {"grpc", "rest"}
    return [os.sched_getaffinity(thread.native_id or 0) for thread in front]


def cpus_of_graph() -> list[set[int]]:
    """Of each thread of TensorFlow's pools and batch schedulers."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().startswith(("tf_", "batch_threads")):
            found.append(os.sched_getaffinity(int(task.name)))
    return found


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    copy_version(tmp_path / "models" / "echo", 1)
    file = tmp_path / "batching.config"
    file.write_text(BATCHING)
    return {
        "model_base_path": tmp_path / "models" / "echo", "model_name": "echo", "enable_batching": True,
        "batching_parameters_file": file, "tensorflow_inter_op_parallelism": 2, "file_system_poll_wait_seconds": 0.1,
    }  # fmt: skip


@several_cpus
def test_threads_that_talk_to_clients_stay_on_one_cpu_and_those_of_the_graph_on_none(
    start_server: StartServer, options: dict[str, Any], others: set[threading.Thread]
) -> None:
    here = os.sched_getaffinity(0)
    server = start_server(**options)
    ask(server)
    copy_version(options["model_base_path"], 2)  # loaded while serving
    wait_until(lambda: ask(server) == 2)
    pinned = cpus_of_front(others)
    assert len(pinned[0]) == 1
    assert all(cpus == pinned[0] for cpus in pinned)
    assert cpus_of_graph()
    assert all(cpus == here for cpus in cpus_of_graph())
    assert os.sched_getaffinity(0) == here


@several_cpus
@pytest.mark.parametrize(
    "changes",
    [
        {"pin_front": False},
        # each request's thread runs the graph as well
        {"enable_batching": False, "batching_parameters_file": None, "tensorflow_inter_op_parallelism": 1},
    ],
    ids=["not wanted", "front runs the graph"],
)
def test_nothing_is_pinned_where_it_is_not_wanted_or_would_bind_the_graph(
    start_server: StartServer, options: dict[str, Any], others: set[threading.Thread], changes: dict[str, Any]
) -> None:
    ask(start_server(**(options | changes)))
    assert all(cpus == os.sched_getaffinity(0) for cpus in cpus_of_front(others))


@several_cpus
def test_where_pinning_is_forbidden_threads_go_where_they_want(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", forbidden)
    front = Front(pinned=True)
    with front.threads():
        assert front.cpu is None


def test_one_cpu_needs_no_pinning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert Front(pinned=True).cpu is None


class _Cycle:
    def __init__(self) -> None:
        self.me = self


def test_the_collector_leaves_alone_what_stays_and_garbage_is_still_found() -> None:
    try:
        kept = _Cycle()
        settle()
        assert gc.get_freeze_count() > 0
        assert not any(found is kept for found in gc.get_objects())
        gone = weakref.ref(kept)
        del kept
        gc.collect()
        assert gone() is not None  # kept away from the collector
        settle()
        assert gone() is None
    finally:
        gc.unfreeze()
