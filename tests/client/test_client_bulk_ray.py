"""Bulk embedding by the actors of a Ray cluster."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset
import pytest
from command_support import installed, start_installed
from fake_serving import FakeServing
from text_vectors import vectors

from toolkit.client.bulk import FolderSummary, Inputs, OnRay, Place, Served, embed_folder
from toolkit.errors import InputError, ServerError, UnreachableError

TEXTS = [f"row {i} é" for i in range(200)]
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
    runner = OnRay(cluster.address, **{"memory": 100 << 20, **options.pop("ray", {})})
    served = Served(fake.grpc_url, "fake")
    return embed_folder(served, Inputs.of([source]), Place.of(output), runner, part_rows=10, **options)


def arguments(cluster: Any, fake: FakeServing, source: Path, output: Path) -> list[object]:
    cluster_options = ["--engine", "ray", "--ray-address", cluster.address, "--worker-memory", 100]
    files = ["--input", source, "--output", output, "--part-rows", 10]
    return ["embed", "--model", "fake", "--url", fake.grpc_url, *cluster_options, *files]


def check(output: Path) -> None:
    table = pa.dataset.dataset(output).to_table().sort_by("row")
    assert table["row"].to_pylist() == list(range(len(TEXTS)))
    assert np.array_equal(np.stack(table["embedding"].to_pylist()).astype(np.float32), vectors(TEXTS))


@pytest.mark.long
def test_actors_make_every_row_once_though_one_is_killed(
    cluster: Any, fake: FakeServing, lines: Path, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill(news: Any) -> None:
        if news.rows and not killed:
            killed.append(_an_actor(cluster))
            os.kill(killed[0], signal.SIGKILL)

    summary = fill(cluster, fake, lines, tmp_path / "out", progress=kill)
    assert (summary.rows, summary.rejected, summary.finished) == (200, 0, True)
    assert killed
    check(tmp_path / "out")


@pytest.mark.slow
def test_an_interrupted_command_ends_with_130_and_the_same_one_resumed_with_0(
    cluster: Any, serve: Callable[..., FakeServing], lines: Path, tmp_path: Path
) -> None:
    slow, output = serve(before=lambda call, rows: time.sleep(0.2)), tmp_path / "out"
    process = start_installed(*arguments(cluster, slow, lines, output))
    end = time.monotonic() + 60
    while not list(output.glob("part-*")):
        assert process.poll() is None and time.monotonic() < end, process.communicate()  # noqa: PT018
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    # before them Ray's C++ half may have warned
    words = [f"interrupted; the same command with --resume continues ({output})", "", "interrupted"]
    assert err.splitlines()[-3:] == words
    assert 1 <= len(list(output.glob("part-*"))) < 20
    again = installed(*arguments(cluster, slow, lines, output), "--resume")
    assert again.returncode == 0, again.stderr
    assert again.stderr.endswith(f"200 of 200 rows embedded: {output}\n")
    check(output)


@pytest.mark.long
def test_rejected_rows_end_the_command_with_2_and_too_many_name_the_worker(
    cluster: Any, fake: FakeServing, tmp_path: Path
) -> None:
    (tmp_path / "bad.txt").write_bytes(b"one\n\xff\n\xff\n")
    start = arguments(cluster, fake, tmp_path / "bad.txt", tmp_path / "out")
    stopped = installed(*start, "--max-rejected", 1)
    assert stopped.returncode == 2, stopped.stderr
    worker, error = stopped.stderr.splitlines()[-2:]
    assert worker.startswith("worker ")
    assert "2 rows cannot be embedded, more than the 1 allowed" in error
    for _ in range(2):  # also where there is nothing left to do
        done = installed(*start, "--resume")
        assert done.returncode == 2, done.stderr
        assert done.stderr.endswith(f"2 rows have no embedding; reasons: {tmp_path}/out.rejected.jsonl\n")


@pytest.mark.slow
def test_what_cannot_work_is_named_and_nothing_written(
    cluster: Any, fake: FakeServing, lines: Path, tmp_path: Path
) -> None:
    for need, words in (
        ({"cpus": 9}, "no machine of the cluster has room for a worker of 9 CPUs"),
        (
            {"memory": 9 << 30},
            r"room for a worker of 1 CPUs and 9,664 MB of memory.*the largest has 1 CPUs and 2,147 MB",
        ),
    ):
        with pytest.raises(ServerError, match=words):
            fill(cluster, fake, lines, tmp_path / "out", ray=need)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/sitecustomize.py").write_text("import ray\nray.__version__ = '2.0.0'\n")
    other = installed(*arguments(cluster, fake, lines, tmp_path / "out"), path=tmp_path / "other")
    assert other.returncode == 4, other.stderr
    assert "is of another version" in other.stderr
    assert "2.0.0" in other.stderr
    assert not (tmp_path / "out").exists()


def test_an_address_that_is_none_is_named() -> None:
    for text, words in (("ray://head:10001", "only host:port and auto"), ("http://x", "only host:port and auto")):
        with pytest.raises(InputError, match=words):
            OnRay(text)


def test_what_ray_raises_about_itself_is_named_and_a_bug_in_a_worker_stays_one() -> None:
    from ray.exceptions import NodeDiedError, RayTaskError

    runner = OnRay("head:6379")
    named = pytest.raises(UnreachableError, match=r"the Ray cluster failed: gone .*\(server head:6379\)")
    with named, runner._cluster_errors():
        raise NodeDiedError("gone")
    bug = RayTaskError("embed", "traceback", ValueError("ours"))
    with pytest.raises(RayTaskError), runner._cluster_errors():
        raise bug


def _an_actor(cluster: Any) -> int:
    """The process of an actor, of this cluster and no other."""
    raylets = [node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()]
    children = [child for raylet in raylets for child in psutil.Process(raylet).children()]
    return next(child.pid for child in children if child.cmdline()[0].startswith("ray::MapWorker"))
