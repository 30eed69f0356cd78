"""The runtime configuration of exported models: what TensorFlow Serving reads, from what export wrote."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from toolkit.artifact.savedmodel import write_provenance
from toolkit.deploy.render import RuntimeOptions, ServedModel, deployment_files, find_models, render, write
from toolkit.errors import ArtifactError, InputError

ROOT = Path(__file__).parents[2]
MINILM = ServedModel("minilm", (1,), 91_000_000)  # what serving/ in the repository is rendered for


def artifact(models: Path, name: str, version: int, graph: bytes = b"graph", provenance: object = None) -> Path:
    folder = models / name / str(version)
    (folder / "assets.extra").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(graph)
    if provenance is not None:
        (folder / "assets.extra/provenance.json").write_text(json.dumps(provenance))
    return folder


def served(text: str) -> list[Any]:
    from tensorflow_serving.config import model_server_config_pb2

    message = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    return list(message.model_config_list.config)


def fields(text: str) -> dict[str, str]:
    """The fields of a batching file: name to value."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {line.split(" ", 1)[0]: line[line.index("value:") + 6 : line.rindex("}")].strip() for line in lines}


def test_the_repositorys_serving_folder_is_what_render_writes() -> None:
    rendered = render([MINILM])
    del rendered["image.labels"]  # needs an artifact
    for name, text in rendered.items():
        assert (ROOT / "serving" / name).read_text() == text, f"serving/{name}: render again"


def test_models_are_found_with_their_versions_size_and_provenance(tmp_path: Path) -> None:
    artifact(tmp_path, "b", 9)
    newest = artifact(tmp_path, "b", 10, graph=b"x" * 100, provenance={"source": "s"})
    artifact(tmp_path, "a", 1, graph=b"..BatchFunction..")
    (tmp_path / "b/11").mkdir()  # no saved_model.pb: not a version yet
    (tmp_path / "b/.tmp").mkdir()
    (tmp_path / "notes").mkdir()
    a, b = find_models(tmp_path)
    assert (a.name, a.versions, a.batches_in_graph) == ("a", (1,), True)
    assert (b.name, b.versions, b.batches_in_graph, b.provenance) == ("b", (9, 10), False, {"source": "s"})
    assert b.size == 100 + len((newest / "assets.extra/provenance.json").read_bytes())
    assert [model.name for model in find_models(tmp_path, ["b"])] == ["b"]


def test_folders_without_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no model in it; expected"):
        find_models(tmp_path)
    with pytest.raises(ArtifactError, match="not a folder"):
        find_models(tmp_path / "gone")
    with pytest.raises(ArtifactError, match="minilm: no exported version in it"):
        find_models(tmp_path, ["minilm"])
    artifact(tmp_path, "my model", 1)
    with pytest.raises(InputError, match="model name 'my model'"):
        find_models(tmp_path)


@pytest.mark.parametrize(("text", "message"), [("{", "cannot be read"), ("[1]", "expected a JSON object")])
def test_a_broken_provenance_is_refused(tmp_path: Path, text: str, message: str) -> None:
    folder = artifact(tmp_path, "m", 1)
    (folder / "assets.extra/provenance.json").write_text(text)
    with pytest.raises(ArtifactError, match=message):
        find_models(tmp_path)


def test_the_newest_version_is_served_unless_versions_have_labels() -> None:
    options = RuntimeOptions(labels={("b", "stable"): 1, ("b", "canary"): 3})
    text = render([MINILM, ServedModel("b", (1, 2, 3), 10)], options)["models.config"]
    first, second = served(text)
    assert (first.name, first.base_path, first.model_platform) == ("minilm", "/models/minilm", "tensorflow")
    assert first.model_version_policy.latest.num_versions == 1
    assert list(second.model_version_policy.specific.versions) == [1, 3]
    assert dict(second.version_labels) == {"stable": 1, "canary": 3}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({("x", "stable"): 1}, "no model 'x'; there are: minilm"),
        ({("minilm", "stable"): 7}, "has no version 7; it has: 1"),
        ({("minilm", "a-b"): 1}, "label 'a-b': only letters, digits and '_'"),
    ],
)
def test_labels_that_fit_no_version_are_refused(labels: dict[tuple[str, str], int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        render([MINILM], RuntimeOptions(labels=labels))


def test_batches_are_bounded_and_larger_requests_split() -> None:
    options = RuntimeOptions(
        cpus=8, max_batch_size=32, max_request_rows=256, batch_timeout_micros=500, max_enqueued_batches=9
    )
    assert fields(render([MINILM], options)["batching.config"]) == {
        "max_batch_size": "256",
        "enable_large_batch_splitting": "true",
        "max_execution_batch_size": "32",
        "batch_timeout_micros": "500",
        "num_batch_threads": "8",
        "max_enqueued_batches": "9",
    }


def test_a_graph_that_batches_by_itself_is_not_batched_by_the_server() -> None:
    model = ServedModel("m", (1,), 1, batches_in_graph=True)
    assert "batching.config" not in render([model])
    files = deployment_files([model], RuntimeOptions(), kubernetes=False)
    assert "batching.config" not in files["serving/kustomization.yaml"]
    assert "monitoring.config" in files["serving/kustomization.yaml"]


@pytest.mark.parametrize(("size", "memory"), [(1, "1536Mi"), (91_000_000, "1792Mi"), (1_340_000_000, "6400Mi")])
def test_memory_has_room_for_two_versions_and_the_server(size: int, memory: str) -> None:
    assert f"MEMORY={memory}\n" in render([ServedModel("m", (1,), size)], RuntimeOptions(cpus=3))["model.env"]


@pytest.mark.parametrize(
    ("name", "size", "resident"),
    [("all-MiniLM-L6-v2", 94_000_000, 780_000_000), ("multilingual-e5-small", 492_000_000, 1_700_000_000)],
)
def test_memory_covers_what_real_models_take_while_one_version_replaces_another(
    name: str, size: int, resident: int
) -> None:
    """``resident`` is what a real TF Serving takes with one version loaded; its bare runtime is 500 MB of that.

    15% of the limit have to be left for long texts in large batches.
    """
    env = render([ServedModel(name, (1,), size)])["model.env"]
    memory = int(env.partition("MEMORY=")[2].removesuffix("Mi\n")) * 2**20
    second = resident - 500_000_000
    assert 0.85 * memory >= resident + second


def test_image_labels_carry_the_provenance_without_white_space() -> None:
    provenance = {"source": "a b", "versions": {"tensorflow": "2.21"}, "exact": True, "list": [1], "none": None}
    text = render([ServedModel("m", (1, 4), 1, provenance=provenance)])["image.labels"]
    assert text.splitlines() == [
        "--label=org.opencontainers.image.title=m",
        "--label=org.opencontainers.image.version=4",
        "--label=sentence-serving.m.exact=True",
        "--label=sentence-serving.m.source=a_b",
        "--label=sentence-serving.m.versions.tensorflow=2.21",
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cpus": 0}, "cpus is 0"),
        ({"max_batch_size": 0}, "max_batch_size is 0"),
        ({"max_batch_size": 64, "max_request_rows": 63}, "max_request_rows is 63; a number from 64"),
        ({"max_request_rows": 5000}, "max_request_rows is 5000, but the queue has room for 4096 rows"),
        ({"batch_timeout_micros": -1}, "batch_timeout_micros is -1"),
        ({"models_path": "models"}, "models_path is 'models'"),
        ({"models_path": '/m"'}, "models_path is"),
    ],
)
def test_options_out_of_range_are_refused_by_name(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RuntimeOptions(**values)  # type: ignore[arg-type]


def test_nothing_to_serve_is_refused() -> None:
    with pytest.raises(InputError, match="no model"):
        render([])


def test_a_whole_deployment_is_written_and_written_again_without_a_change(tmp_path: Path) -> None:
    files = deployment_files([MINILM], RuntimeOptions(), kubernetes=True)
    changed = write(files, tmp_path)
    assert len(changed) == len(files)
    for name in ("entrypoint", "healthcheck"):
        assert os.access(tmp_path / "serving" / name, os.X_OK)
    for name in ("Dockerfile.serving", ".dockerignore", "k8s/base/deployment.yaml"):
        assert (tmp_path / name).read_text() == (ROOT / name).read_text()
    tracked = subprocess.run(["git", "ls-files", "k8s"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode == 0:
        assert {name for name in files if name.startswith("k8s/")} >= set(tracked.stdout.split())
    assert write(files, tmp_path) == []


def test_a_file_that_someone_changed_is_kept_unless_forced(tmp_path: Path) -> None:
    files = {"serving/a": "new\n", "serving/b": "new\n"}
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving/b").write_text("mine\n")
    with pytest.raises(InputError, match="b exists and differs; use --force"):
        write(files, tmp_path)
    assert sorted(path.name for path in (tmp_path / "serving").iterdir()) == ["b"]
    assert (tmp_path / "serving/b").read_text() == "mine\n"
    assert len(write(files, tmp_path, force=True)) == 2
    assert (tmp_path / "serving/b").read_text() == "new\n"
    assert sorted(path.name for path in (tmp_path / "serving").iterdir()) == ["a", "b"]


def test_a_folder_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write({"serving/a": "x"}, tmp_path / "file")


def test_a_stamped_model_is_rendered_with_its_provenance(tmp_path: Path) -> None:
    folder = artifact(tmp_path, "tiny", 1)
    stamp = {
        "created": "2026-01-02T03:04:05+00:00",
        "source": {"name": "my model", "digest": "sha256:ab"},
        "check": None,
    }
    write_provenance(folder, stamp)
    (model,) = find_models(tmp_path)
    labels = dict(line.removeprefix("--label=").split("=", 1) for line in render([model])["image.labels"].splitlines())
    assert labels["org.opencontainers.image.created"] == "2026-01-02T03:04:05+00:00"
    assert labels["sentence-serving.tiny.source.name"] == "my_model"
    assert labels["sentence-serving.tiny.source.digest"] == "sha256:ab"
    (config,) = served(render([model])["models.config"])
    assert config.base_path == "/models/tiny"
