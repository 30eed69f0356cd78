"""The image's recipe is clean, and says what the manifests rely on."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from deploy.bundles import ROOT, Bundle, Renderer, combination

from toolkit.cli import cli

DOCKERFILE = (ROOT / "Dockerfile.serving").read_text()
FINAL = DOCKERFILE[DOCKERFILE.index("AS runtime") :]


def instructions(stage: str) -> str:
    text = DOCKERFILE[DOCKERFILE.index(f" AS {stage}\n") :]
    return text[: text.index("\nFROM ")]


def test_hadolint_has_nothing_to_say(tool: Callable[[str], str]) -> None:
    result = subprocess.run([tool("hadolint"), str(ROOT / "Dockerfile.serving")], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")


def test_every_hadolint_exception_has_its_reason() -> None:
    assert re.findall(r"hadolint ignore=(\w+)", DOCKERFILE) == ["DL3013", "DL3006", "DL3006", "DL3008"]


def test_the_image_runs_as_the_user_and_command_of_the_deployment(overlays: list[Bundle]) -> None:
    context = overlays[0].pod["securityContext"]
    assert re.findall(r"^USER (\S+)$", FINAL, re.MULTILINE)[-1] == f"{context['runAsUser']}:{context['runAsGroup']}"
    ports = " ".join(str(port["containerPort"]) for port in overlays[0].server["ports"])
    assert f"EXPOSE {ports}\n" in FINAL
    assert "STOPSIGNAL SIGTERM\n" in FINAL


def test_each_server_is_started_as_the_deployment_starts_it(
    overlays: list[Bundle], new_renderer: Callable[..., Renderer]
) -> None:
    renderer = new_renderer()
    renderer.kustomization("embedded", combination(("embedded-server",)))
    bundles = {"tensorflow": overlays[0], "embedded": renderer.folder("k8s/embedded", ("embedded-server",))}
    for name, bundle in bundles.items():
        assert f"ENTRYPOINT {json.dumps(bundle.server['command'])}\n" in instructions(f"server-{name}")


def test_what_runs_beside_the_embedded_server_is_no_shell() -> None:
    started = re.findall(r"(?:ENTRYPOINT|CMD) (.*)", instructions("server-embedded") + FINAL)
    assert [json.loads(command)[:1] for command in started] == [["sentence-serving"], ["sentence-serving"], []]


def test_a_model_exported_in_the_build_gets_its_configuration_and_labels_from_there(tmp_path: Path) -> None:
    (tmp_path / "models/m/3").mkdir(parents=True)
    (tmp_path / "models/m/3/saved_model.pb").write_bytes(b"graph")
    command = re.findall(r"bin/sentence-serving (render .*)", instructions("models-export"))[0]
    command = command.replace("/models", f"{tmp_path}/models").replace("--output /", f"--output {tmp_path}/")
    assert CliRunner().invoke(cli, shlex.split(command.replace("${CPUS}", "2"))).exit_code == 0
    assert "COPY --from=models --chmod=0555 /serving /etc/serving\n" in FINAL
    assert {"image.labels", "models.config", "entrypoint"} <= {path.name for path in (tmp_path / "serving").iterdir()}
    assert "image.version=3\n" in (tmp_path / "serving/image.labels").read_text()


@pytest.mark.parametrize("argument", ["SERVER", "MODELS_FROM"])
def test_every_documented_variant_is_a_stage(argument: str) -> None:
    prefix = {"SERVER": "server", "MODELS_FROM": "models"}[argument]
    documented = DOCKERFILE[DOCKERFILE.index(f"# {argument} ") :]
    documented = (
        documented[: documented.index("\n# " if argument == "MODELS_FROM" else "\n# MODELS_FROM")]
        if argument == "SERVER"
        else documented[: documented.index("# TOOLKIT")]
    )
    for variant in re.findall(r"(?:^#| ) +(\w+):", documented):
        if variant.islower():
            assert f" AS {prefix}-{variant}\n" in DOCKERFILE, variant


def test_the_ignore_file_keeps_what_the_recipe_copies() -> None:
    ignored = {line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")}
    assert not ignored & {"serving", "models", "toolkit", "k8s", "pyproject.toml", "README.md", "LICENSE"}
    assert {".git", "tests"} <= ignored
