"""Bulk embedding by the actors of a Ray cluster."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset
import pytest
from command_support import installed
from fake_serving import FakeServing
from text_vectors import vectors

from toolkit.client.bulk import FolderSummary, Inputs, OnRay, Place, Served, embed_folder
from toolkit.errors import InputError, RequestError, ServerError

TEXTS = [f"row {i} é" for i in range(400)]
NODE = {"num_cpus": 1, "memory": 2 << 30, "object_store_memory": 100 << 20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one CPU on this machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    running = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    running.add_node(**NODE)
    yield running
    running.shutdown()


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "in.txt"
    path.write_text("".join(f"{text}\n" for text in TEXTS))
    return path


def fill(cluster: Any, fake: FakeServing, source: Path, output: Path, **options: Any) -> FolderSummary:
    runner = OnRay(cluster.address, memory=100 << 20, **options.pop("ray", {}))
    served = Served(fake.grpc_url, "fake")
    options = {"part_rows": 20, **options}
    return embed_folder(served, Inputs.of([source]), Place.of(output), runner, **options)


def check(output: Path) -> None:
    table = pa.dataset.dataset(output).to_table().sort_by("row")
    assert table["row"].to_pylist() == list(range(len(TEXTS)))
    assert np.array_equal(np.stack(table["embedding"].to_pylist()).astype(np.float32), vectors(TEXTS))


@pytest.mark.slow
def test_actors_make_every_row_once_though_one_is_killed(
    cluster: Any, serve: Callable[..., FakeServing], lines: Path, tmp_path: Path
) -> None:
    fake, killed = serve(), []

    def kill(news: Any) -> None:
        if news.rows and not killed:
            killed.append(_an_actor(cluster))
            os.kill(killed[0], signal.SIGKILL)

    summary = fill(cluster, fake, lines, tmp_path / "out", progress=kill)
    assert (summary.rows, summary.rejected, summary.finished) == (400, 0, True)
    assert killed
    check(tmp_path / "out")


@pytest.mark.slow
def test_a_stopped_run_is_continued_on_the_cluster(
    cluster: Any, fake: FakeServing, lines: Path, tmp_path: Path
) -> None:
    def stop(news: Any) -> None:
        if news.rows >= 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(cluster, fake, lines, tmp_path / "out", progress=stop)
    assert 5 <= len(list((tmp_path / "out").glob("part-*"))) < 20
    assert fill(cluster, fake, lines, tmp_path / "out", resume=True).rows == 400
    check(tmp_path / "out")


@pytest.mark.slow
def test_a_workers_error_arrives_by_its_name_with_the_worker(
    cluster: Any, serve: Callable[..., FakeServing], tmp_path: Path
) -> None:
    fake = serve()
    (tmp_path / "bad.txt").write_bytes(b"one\n\xff\n\xff\n")
    with pytest.raises(RequestError, match="2 rows cannot be embedded, more than the 1 allowed") as caught:
        fill(cluster, fake, tmp_path / "bad.txt", tmp_path / "out", max_rejected=1)
    assert caught.value.__notes__[0].startswith("worker ")


@pytest.mark.slow
def test_what_cannot_work_is_named_and_nothing_written(
    cluster: Any, fake: FakeServing, lines: Path, tmp_path: Path
) -> None:
    with pytest.raises(ServerError, match="no machine of the cluster has room for a worker of 9 CPUs"):
        fill(cluster, fake, lines, tmp_path / "out", ray={"cpus": 9})
    (tmp_path / "other").mkdir()
    (tmp_path / "other/sitecustomize.py").write_text("import ray\nray.__version__ = '2.0.0'\n")
    arguments = ["embed", "--engine", "ray", "--model", "fake", "--url", fake.grpc_url, "--input", lines]
    other = installed(
        *arguments, "--output", tmp_path / "out", "--ray-address", cluster.address, path=tmp_path / "other"
    )
    assert other.returncode == 4, other.stderr
    assert "is of another version" in other.stderr
    assert "2.0.0" in other.stderr
    assert not (tmp_path / "out").exists()


def test_an_address_without_a_cluster_is_named(fake: FakeServing, lines: Path, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        runner = OnRay(address)
        with pytest.raises(ServerError, match=f"no Ray cluster at {address}"):
            embed_folder(Served(fake.grpc_url, "fake"), Inputs.of([lines]), Place.of(tmp_path / "out"), runner)
    assert not (tmp_path / "out").exists()
    for text, words in (("ray://head:10001", "only host:port and auto"), ("http://x", "only host:port and auto")):
        with pytest.raises(InputError, match=words):
            OnRay(text)


def _an_actor(cluster: Any) -> int:
    """The process of an actor, of this cluster and no other."""
    raylets = [node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()]
    children = [child for raylet in raylets for child in psutil.Process(raylet).children()]
    return next(child.pid for child in children if child.cmdline()[0].startswith("ray::MapWorker"))
