"""An artifact in the worker's own process: the same vectors as by the graph itself, in batches by tokens."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from toolkit.artifact import session
from toolkit.artifact.session import Artifact, artifact_digest
from toolkit.client.bulk import Inputs, Place, Shard, embed_folder
from toolkit.client.bulk.manifest import Manifest
from toolkit.errors import ArtifactError, InputError

TEXTS = [f"text {'number ' * (i % 9)}{i}" for i in range(60)]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "in.txt"
    path.write_text("".join(f"{text}\n" for text in TEXTS))
    return path


def fill(artifact: Artifact, lines: Path, output: Path, **options: bool) -> None:
    summary = embed_folder(artifact, Inputs.of([lines]), Place.of(output), Shard(0, 1), part_rows=25, **options)
    assert (summary.rows, summary.rejected) == (60, 0)


def test_vectors_are_the_graphs_own_bit_for_bit_in_the_same_batches(
    tiny_export: Path, lines: Path, tmp_path: Path
) -> None:
    import tensorflow as tf
    import tensorflow_text  # noqa: F401

    artifact = Artifact.of(tiny_export)
    assert (artifact.model, artifact.version) == ("tiny", 1)
    fill(artifact, lines, tmp_path / "out")
    table = pa.dataset.dataset(tmp_path / "out").to_table().sort_by("row")
    assert table["text"].to_pylist() == TEXTS
    answers = np.stack(table["embedding"].to_pylist()).astype(np.float32)
    model = tf.saved_model.load(str(tiny_export))
    for start in range(0, 60, 25):  # a part is less than the budget
        expected = model.signatures["serving_default"](text=tf.constant(TEXTS[start : start + 25]))["embedding"]
        assert np.array_equal(answers[start : start + 25], expected.numpy())
    whole = model.signatures["serving_default"](text=tf.constant(TEXTS))["embedding"].numpy()
    assert np.abs(answers - whole).max() <= 1e-6
    about = pq.read_schema(tmp_path / "out/part-00000000.parquet").metadata
    assert about[b"sentence-serving.digest"].decode() == artifact_digest(tiny_export)
    assert about[b"sentence-serving.version"] == b"1"


def test_batches_hold_no_more_tokens_than_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "BUDGET", 10)
    monkeypatch.setattr(session, "_LOOK", 4)
    texts = [b"a" * size for size in (3, 3, 3, 3, 12, 1, 1, 9)]
    batches = list(session._batches(iter(texts), lambda block: [len(text) for text in block]))
    assert [[len(text) for text in batch] for batch in batches] == [[3, 3, 3], [3], [12], [1, 1], [9]]


def test_a_batch_that_is_refused_is_cut_down_to_the_rows_at_fault() -> None:
    def run(texts: list[bytes]) -> dict[str, np.ndarray]:
        if b"bad" in texts:
            raise ValueError("not this one")
        return {"embedding": np.array([[len(text)] for text in texts])}

    batches = iter([[b"a", b"bb", b"bad", b"cccc"], [b"bad"], [b"e"]])
    pieces = list(session._pieces(batches, run, ValueError))  # type: ignore[arg-type]
    assert [(piece.start, piece.stop) for piece in pieces] == [(0, 2), (2, 3), (3, 4), (4, 5), (5, 6)]
    assert [piece.start for piece in pieces if piece.error is not None] == [2, 4]
    assert pieces[2].value["embedding"].tolist() == [[4]]


def test_another_artifact_is_refused_by_name(tiny_export: Path, lines: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_export, tmp_path / "tiny/1")
    artifact = Artifact.of(tmp_path / "tiny")
    fill(artifact, lines, tmp_path / "out")
    manifest = tmp_path / "out/_manifest.json"
    manifest.write_text(manifest.read_text().replace('"rejected": 0', '"rejected": null'))  # as if unfinished
    (tmp_path / "tiny/1/assets").mkdir(exist_ok=True)
    (tmp_path / "tiny/1/assets/more").write_text("x")
    with pytest.raises(InputError, match="the unfinished run has digest"):
        fill(Artifact.of(tmp_path / "tiny"), lines, tmp_path / "out", resume=True)
    with pytest.raises(ArtifactError, match="is another artifact on this machine"):
        fill(artifact, lines, tmp_path / "other")
    plan = Manifest.read(Place.of(tmp_path / "out")).plan  # type: ignore[union-attr]
    shutil.rmtree(tmp_path / "tiny")
    with pytest.raises(ArtifactError, match="is not on this machine"), artifact.open(plan, 0, 1):
        pass
    with pytest.raises(InputError, match="no exported model"):
        Artifact.of(tmp_path / "tiny")
