"""A bulk job on a Ray cluster whose actors, machines, driver and server are killed again and again: takes minutes."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset
import pytest
from chaos import Process, free_port, wait_for_port

ROWS, PART = 200_000, 2_000
LIMIT = 1500.0  # seconds after which the job is taken for stuck
NODE = {"num_cpus": 1, "memory": 2 << 30, "object_store_memory": 100 << 20}
COMMAND = [sys.executable, "-c", "from toolkit.cli import main; main()"]


class TwoNodes:
    """A cluster of two machines of one CPU, on this one. The driver stands on the first."""

    def __init__(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        self._second = self._cluster.add_node(**NODE)
        self.address = self._cluster.address

    def kill_an_actor(self, chosen: random.Random) -> bool:
        """Whether there was one."""
        raylets = [node.all_processes["raylet"][0].process.pid for node in self._cluster.list_all_nodes()]
        actors = []
        for raylet in raylets:
            for child in psutil.Process(raylet).children():
                try:
                    if child.cmdline()[:1] and child.cmdline()[0].startswith("ray::MapWorker"):
                        actors.append(child)
                except psutil.Error:
                    continue
        if actors:
            os.kill(chosen.choice(actors).pid, signal.SIGKILL)
        return bool(actors)

    def lose_a_machine(self) -> None:
        """All of the second machine's processes at once; another machine joins."""
        os.kill(self._second.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        self._cluster.remove_node(self._second, allow_graceful=False)
        self._second = self._cluster.add_node(**NODE)

    def close(self) -> None:
        self._cluster.shutdown()


@pytest.fixture
def cluster() -> Iterator[TwoNodes]:
    running = TwoNodes()
    yield running
    running.close()


def standing(output: Path) -> int:
    return len(list(output.glob("part-*.parquet")))


def survive(cluster: TwoNodes, driver: Process, output: Path, kills: list[str], server: Process | None) -> Counter[str]:
    """Run ``driver`` to its end; the kills are spread over the parts, in a random order that is always the same."""
    chosen = random.Random(7)
    chosen.shuffle(kills)
    marks = sorted(chosen.randrange(1, int(ROWS / PART * 0.85)) for _ in kills)
    done: Counter[str] = Counter()
    began = time.monotonic()
    while (code := driver.process.poll()) in (None, 5):
        if code == 5:  # no server at the moment that it began
            driver.start()
        assert time.monotonic() - began < LIMIT, f"{standing(output)} parts after {LIMIT} s; kills so far: {done}"
        time.sleep(0.05)
        if not marks or standing(output) < marks[0]:
            continue
        kind = kills[0]
        if kind == "actor" and not cluster.kill_an_actor(chosen):
            continue  # they are just starting
        if kind == "machine":
            cluster.lose_a_machine()
        elif kind in ("driver", "server"):
            victim = driver if kind == "driver" else server
            assert victim is not None
            victim.kill()
            victim.start()
        kills.pop(0)
        marks.pop(0)
        done[kind] += 1
    print(f"{ROWS} rows, killed {dict(done)}, {time.monotonic() - began:.0f} s")
    return done


@pytest.mark.long
@pytest.mark.parametrize("way", ["artifact", "served"])
def test_every_row_is_there_once_whatever_is_killed(
    cluster: TwoNodes, tiny_export: Path, tmp_path: Path, way: str
) -> None:
    import tensorflow as tf
    import tensorflow_text  # noqa: F401

    texts = [f"row {i} of many{' words' * (i % 5)}" for i in range(ROWS)]
    for file in range(4):
        part = texts[file * ROWS // 4 : (file + 1) * ROWS // 4]
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / f"in/{file}.txt").write_text("".join(f"{text}\n" for text in part))
    output, server, model = tmp_path / "out", None, ["--artifact", str(tiny_export)]
    kills = ["actor"] * 5 + ["driver"] * 3 + ["machine"]
    if way == "served":
        port = free_port()
        models = ["--model_name", "tiny", "--model_base_path", str(tiny_export.parent)]
        ports = ["--port", str(port), "--rest_api_port", "0"]
        server = Process([*COMMAND, "serve", *models, *ports], tmp_path / "server.log")
        wait_for_port(port, 120)
        model = ["--url", f"grpc://127.0.0.1:{port}", "--model", "tiny"]
        kills += ["server"] * 4
    expected = Counter(kills)
    cluster_options = ["--engine", "ray", "--ray-address", cluster.address, "--worker-memory", "1000"]
    files = ["--input", str(tmp_path / "in"), "--output", str(output), "--part-rows", str(PART), "--resume"]
    driver = Process([*COMMAND, "embed", *cluster_options, *model, *files], tmp_path / "driver.log")
    try:
        done = survive(cluster, driver, output, kills, server)
        assert driver.process.returncode == 0, (tmp_path / "driver.log").read_text()[-2000:]
        assert done == expected
    finally:
        for process in filter(None, (driver, server)):
            if process.process.poll() is None:
                process.kill()
    table = pa.dataset.dataset(output).to_table(columns=["row", "text", "embedding"]).sort_by("row")
    assert table["row"].to_pylist() == list(range(ROWS))
    assert table["text"].to_pylist() == texts
    loaded = tf.saved_model.load(str(tiny_export))
    found = pa.concat_arrays(table["embedding"].chunks).values.to_numpy().reshape(ROWS, -1)
    for start in range(0, ROWS, 5_000):
        answer = loaded.signatures["serving_default"](text=tf.constant(texts[start : start + 5_000]))["embedding"]
        assert np.abs(found[start : start + 5_000] - answer.numpy()).max() <= 1e-6
