"""``sentence-serving render``: exact output, exit codes, files."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from toolkit.cli.render import command
from toolkit.errors import InputError


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    for version in (1, 2):
        (folder / "minilm" / str(version)).mkdir(parents=True)
        (folder / "minilm" / str(version) / "saved_model.pb").write_bytes(b"graph")
    return folder


def test_it_prints_the_files_it_wrote(models: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = [str(models), "--output", str(output), "--label", "minilm:stable=1", "--cpus", "4"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    names = [Path(line).name for line in result.stdout.splitlines()]
    assert sorted(names) == sorted(path.name for path in (output / "serving").iterdir())
    assert result.stderr == f"{len(names)} files written for minilm\n"
    assert 'version_labels { key: "stable" value: 1 }' in (output / "serving/models.config").read_text()
    assert "CPUS=4\n" in (output / "serving/model.env").read_text()
    assert not (output / "k8s").exists()
    again = CliRunner().invoke(command, arguments)
    assert (again.stdout, again.stderr) == ("", "0 files written for minilm\n")


def test_kubernetes_adds_the_deployment(models: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [str(models), "--output", str(tmp_path / "out"), "--kubernetes"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out/k8s/overlays/prod/kustomization.yaml").is_file()
    assert (tmp_path / "out/Dockerfile.serving").is_file()


@pytest.mark.parametrize("label", ["stable=1", "minilm:stable", "minilm:=1", "minilm:stable=one", ":stable=1"])
def test_a_label_in_another_form_is_refused(models: Path, tmp_path: Path, label: str) -> None:
    result = CliRunner().invoke(command, [str(models), "--output", str(tmp_path / "out"), "--label", label])
    assert isinstance(result.exception, InputError)
    assert "expected MODEL:LABEL=VERSION" in str(result.exception)
    assert not (tmp_path / "out").exists()
