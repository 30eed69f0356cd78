"""Versions come and go as TF Serving's policies say, and a wanted one is always there. Loading is played here."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from serving_support import wait_until
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from toolkit.errors import ArtifactError
from toolkit.server.models.folders import version_folders
from toolkit.server.models.manager import ModelManager, State
from toolkit.server.requests.status import Code, ServingError


class Played:
    """A servable without TensorFlow."""

    def __init__(self, name: str, version: int) -> None:
        self.name, self.version, self.load_seconds, self.closed = name, version, 0.0, False

    def lease(self) -> bool:
        return not self.closed

    def release(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class World:
    """A folder of versions, and a manager that looks at it."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.broken: set[int] = set()
        self.loads: list[tuple[str, int]] = []
        self.manager = ModelManager(self.load, poll_seconds=0.03, **options)
        self.manager.start()

    def load(self, name: str, version: int, path: Path) -> Any:
        self.loads.append((name, version))
        time.sleep(0.02)
        if version in self.broken:
            raise ArtifactError(f"{path} is broken")
        return Played(name, version)

    def put(self, *versions: int, model: str = "m") -> None:
        for version in versions:
            (self.folder / model / str(version)).mkdir(parents=True)

    def config(self, text: str = "", model: str = "m", platform: str = "tensorflow") -> str:
        return f'config {{ name: "{model}" base_path: "{self.folder / model}" model_platform: "{platform}" {text} }}'

    def configure(self, *configs: str) -> None:
        text = f"model_config_list {{ {' '.join(configs)} }}"
        self.manager.configure(text_format.Parse(text, ModelServerConfig()))

    def states(self, model: str = "m") -> dict[int, str]:
        return {item.version: item.state.name for item in self.manager.status(model)}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, max_retries=0)
    yield world
    world.manager.stop()


def test_latest_version_alone_is_served_by_default(world: World) -> None:
    world.put(1, 3, 12)
    world.configure(world.config())
    assert world.states() == {12: "AVAILABLE"}
    assert world.manager.lease("m").version == 12


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("latest { num_versions: 2 }", {2, 3}),
        ("all { }", {1, 2, 3}),
        ("specific { versions: 1 versions: 3 versions: 9 }", {1, 3}),
    ],
)
def test_policies_choose_versions(world: World, policy: str, served: set[int]) -> None:
    world.put(1, 2, 3)
    world.configure(world.config(f"model_version_policy {{ {policy} }}"))
    # at once: a request right after the start must not meet an older version because a newer one is still loading
    assert world.states() == dict.fromkeys(served, "AVAILABLE")


def test_start_does_not_wait_for_the_retries_of_a_broken_version(tmp_path: Path) -> None:
    world = World(tmp_path, max_retries=5, retry_seconds=3600)
    world.put(1, 2)
    world.broken.add(2)
    world.configure(world.config("model_version_policy { all { } }"))
    assert world.states() == {1: "AVAILABLE", 2: "END"}
    assert world.manager.lease("m").version == 1
    world.manager.stop()


def test_new_version_replaces_the_old_without_a_gap(world: World) -> None:
    world.put(1)
    world.configure(world.config())
    gaps: list[str] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            try:
                world.manager.lease("m").release()
            except ServingError as error:
                gaps.append(error.message)

    asker = threading.Thread(target=ask)
    asker.start()
    for version in (2, 3, 4):
        world.put(version)
        wait_until(lambda version=version: world.states().get(version) == "AVAILABLE")  # type: ignore[misc]
        wait_until(lambda version=version: world.states()[version - 1] == "END")  # type: ignore[misc]
    done.set()
    asker.join()
    assert gaps == []
    assert world.states() == {4: "AVAILABLE", 3: "END", 2: "END", 1: "END"}


def test_version_that_fails_is_reported_and_the_old_one_kept(world: World) -> None:
    world.put(1)
    world.configure(world.config())
    world.broken.add(2)
    world.put(2)
    wait_until(lambda: world.states().get(2) == "END")
    failed = world.manager.status("m", 2)[0]
    assert failed.state is State.END
    assert failed.code is Code.INVALID_ARGUMENT
    assert "is broken" in failed.message
    assert world.manager.lease("m").version == 1


def test_failed_version_is_loaded_again_after_it_changed_on_disk(world: World) -> None:
    world.put(1)
    world.configure(world.config())
    world.broken.add(2)
    world.put(2)
    wait_until(lambda: world.states().get(2) == "END")
    world.broken.clear()
    time.sleep(0.05)
    (world.folder / "m" / "2" / "saved_model.pb").write_bytes(b"whole now")
    wait_until(lambda: world.states() == {2: "AVAILABLE", 1: "END"})


def test_failed_version_is_retried_as_often_as_told(tmp_path: Path) -> None:
    world = World(tmp_path, max_retries=2, retry_seconds=0.05)
    world.broken.add(1)
    world.put(1)
    try:
        with pytest.raises(ServingError, match="Some models did not become available"):
            world.configure(world.config())
        wait_until(lambda: len(world.loads) == 3)
        time.sleep(0.2)
        assert len(world.loads) == 3
    finally:
        world.manager.stop()


def test_removed_version_goes_back_to_the_one_before(world: World) -> None:
    world.put(1, 2)
    world.configure(world.config())
    (world.folder / "m" / "2").rmdir()
    wait_until(lambda: world.states() == {1: "AVAILABLE", 2: "END"})
    assert world.manager.lease("m").version == 1


def test_removed_model_ends_and_can_come_back(world: World) -> None:
    world.put(1)
    world.put(1, model="n")
    world.configure(world.config(), world.config(model="n"))
    world.configure(world.config(model="n"))
    wait_until(lambda: world.states() == {1: "END"})
    with pytest.raises(ServingError, match=r"Servable not found for request: Latest\(m\)"):
        world.manager.lease("m")
    world.configure(world.config())
    assert world.manager.lease("m").version == 1
    assert world.manager.ready()


def test_labels_point_to_versions(world: World) -> None:
    world.put(1, 2)
    both = "model_version_policy { all { } }"
    world.configure(world.config(both))
    wait_until(lambda: world.states() == {1: "AVAILABLE", 2: "AVAILABLE"})
    world.configure(world.config(both + ' version_labels { key: "stable" value: 1 }'))
    assert world.manager.lease("m", label="stable").version == 1
    with pytest.raises(ServingError) as caught:
        world.configure(world.config(both + ' version_labels { key: "stable" value: 9 }'))
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert caught.value.message == (
        "Request to assign label to version 9 of model m, which is not currently available for inference"
    )
    assert world.manager.lease("m", label="stable").version == 1, "a refused configuration changes nothing"


def test_label_in_use_moves_only_to_a_loaded_version_even_if_new_ones_need_not(tmp_path: Path) -> None:
    world = World(tmp_path, allow_labels_for_unavailable=True)
    world.put(1)
    try:
        world.configure(
            world.config('version_labels { key: "stable" value: 1 } version_labels { key: "next" value: 2 }')
        )
        with pytest.raises(ServingError, match="label to version 3"):
            world.configure(world.config('version_labels { key: "stable" value: 3 }'))
        with pytest.raises(ServingError, match=r"Servable not found for request: Specific\(m, 2\)"):
            world.manager.lease("m", label="next")
    finally:
        world.manager.stop()


@pytest.mark.parametrize(
    ("platform", "error"),
    [
        (
            "",
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform.",
        ),
        ("torch", "Model m requests unsupported platform torch"),
    ],
)
def test_platforms_other_than_tensorflow_are_refused(world: World, platform: str, error: str) -> None:
    with pytest.raises(ServingError) as caught:
        world.configure(world.config(platform=platform))
    assert caught.value.message == error


def test_label_and_version_together_are_refused(world: World) -> None:
    world.put(1)
    world.configure(world.config())
    with pytest.raises(ServingError, match="both version and version_label"):
        world.manager.lease("m", 1, "stable")
    with pytest.raises(ServingError, match="ModelSpec has no name specified"):
        world.manager.lease("")


def test_folder_that_cannot_be_read_changes_nothing(world: World) -> None:
    world.put(1)
    world.configure(world.config())
    hidden = world.folder / "hidden"
    (world.folder / "m").rename(hidden)
    time.sleep(0.2)
    assert world.manager.lease("m").version == 1


def put_files(folder: Path, **files: bytes) -> None:
    """Files with a time long past, as ``cp -a`` and image layers leave them; there at once, as the manager looks on."""
    half = folder.with_name(f".{folder.name}")
    half.mkdir(parents=True)
    for name, content in files.items():
        (half / name).write_bytes(content)
        os.utime(half / name, (1, 1))
    os.utime(half, (1, 1))
    half.rename(folder)


def test_failed_version_that_comes_back_with_its_old_times_is_loaded(world: World) -> None:
    put_files(world.folder / "m" / "1", graph=b"broken")
    world.broken.add(1)
    with pytest.raises(ServingError):
        world.configure(world.config())
    world.broken.clear()
    shutil.rmtree(world.folder / "m" / "1")
    wait_until(lambda: not world.manager._models["m"].aspired)
    put_files(world.folder / "m" / "1", graph=b"whole!")
    wait_until(lambda: world.states() == {1: "AVAILABLE"})


def test_failed_version_that_is_exchanged_between_two_looks_is_loaded(world: World) -> None:
    put_files(world.folder / "m" / "1", graph=b"broken", weights=b"w")
    put_files(world.folder / "aside", graph=b"whole!", weights=b"w")
    world.broken.add(1)
    with pytest.raises(ServingError):
        world.configure(world.config())
    world.broken.clear()
    (world.folder / "aside" / "graph").rename(world.folder / "m" / "1" / "graph")
    os.utime(world.folder / "m" / "1", (1, 1))
    wait_until(lambda: world.states() == {1: "AVAILABLE"})


def test_copy_that_takes_longer_than_all_retries_is_loaded_once_it_is_whole(tmp_path: Path) -> None:
    world = World(tmp_path, max_retries=2, retry_seconds=0.01)
    try:
        world.put(1)
        world.configure(world.config())
        world.broken.add(2)
        put_files(tmp_path / "m" / "2" / "variables", data=b"")
        wait_until(lambda: world.loads.count(("m", 2)) == 3)
        data = tmp_path / "m" / "2" / "variables" / "data"
        for _ in range(30):  # deep in the folder, and still at it
            with data.open("ab") as file:
                file.write(b"more")
            time.sleep(0.01)
        tried = world.loads.count(("m", 2))
        assert tried < 15, "a folder that still changes is left alone"
        world.broken.clear()
        data.write_bytes(b"whole")
        wait_until(lambda: world.states().get(2) == "AVAILABLE")
    finally:
        world.manager.stop()


def test_model_folder_that_is_away_while_a_version_loads_comes_back(tmp_path: Path) -> None:
    world = World(tmp_path, max_retries=0)
    loading, away = threading.Event(), threading.Event()
    load = world.load

    def load_slowly(name: str, version: int, path: Path) -> Any:
        if version == 2 and not away.is_set():
            loading.set()
            away.wait(20)
            raise ArtifactError(f"{path} is not there")
        return load(name, version, path)

    world.manager._load = load_slowly
    try:
        world.put(1)
        world.configure(world.config())
        world.put(2)
        assert loading.wait(20)
        (tmp_path / "m").rename(tmp_path / "hidden")
        wait_until(lambda: world.manager._models["m"].versions[2].lost)
        away.set()
        wait_until(lambda: world.states()[2] == "END")
        (tmp_path / "hidden").rename(tmp_path / "m")
        wait_until(lambda: world.states()[2] == "AVAILABLE")
    finally:
        away.set()
        world.manager.stop()


def test_failed_version_that_stays_as_it_is_is_not_tried_again(world: World) -> None:
    world.put(1)
    world.configure(world.config())
    world.broken.add(2)
    put_files(world.folder / "m" / "2", graph=b"broken")
    wait_until(lambda: world.states().get(2) == "END")
    time.sleep(0.3)
    assert world.loads.count(("m", 2)) == 1


def test_versions_are_read_as_numbers(tmp_path: Path) -> None:
    for name in ("011", "11", "007", "99999999999999999999", "x1"):
        (tmp_path / name).mkdir()
    assert version_folders(tmp_path) == {11: tmp_path / "11", 7: tmp_path / "007"}


def test_label_that_is_set_but_empty_is_an_unknown_label(world: World) -> None:
    world.put(1)
    world.configure(world.config())
    with pytest.raises(ServingError, match=r"Unrecognized servable version label: $"):
        world.manager.lease("m", label="")
