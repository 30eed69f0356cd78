"""The documents of the deployment name only what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from deploy.bundles import ROOT

from toolkit.cli.render import command

DOCUMENTS = [
    *ROOT.glob("k8s/**/*.md"),
    ROOT / "serving/README.md",
    ROOT / "docs/kubernetes.md",
    ROOT / "docs/operations.md",
]
ENTRYPOINT = (ROOT / "serving/entrypoint").read_text()
DOCKERFILE = (ROOT / "Dockerfile.serving").read_text()
RULES = yaml.safe_load((ROOT / "k8s/components/monitoring/prometheusrule.yaml").read_text())


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert "://" in target or (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_variables_build_arguments_options_and_alerts_exist(path: Path) -> None:
    text = path.read_text()
    assert set(re.findall(r"\bSERVING_[A-Z_]+[A-Z]\b", text)) - {"SERVING_IMAGE"} <= set(
        re.findall(r"SERVING_\w+", ENTRYPOINT)
    )
    assert set(re.findall(r"--build-arg ([A-Z_]+)=", text)) <= set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    stages = set(re.findall(r" AS (\S+)$", DOCKERFILE, re.MULTILINE))
    assert set(re.findall(r"(?<!export )--target (\S+)", text)) <= stages
    options = {option for parameter in command.params for option in parameter.opts}
    for line in re.findall(r"sentence-serving render (.+)", text):
        assert set(re.findall(r"(--[a-z][a-z-]+)", line)) <= options, line
    alerts = {rule["alert"] for group in RULES["spec"]["groups"] for rule in group["rules"] if "alert" in rule}
    assert set(re.findall(r"\bSentenceServing[A-Z]\w+", text)) <= alerts


def test_everything_has_a_document_and_every_variable_is_in_one() -> None:
    assert len(DOCUMENTS) == 24
    variables = set(re.findall(r"^    +(SERVING_[A-Z_]+)", ENTRYPOINT, re.MULTILINE))
    text = (ROOT / "serving/README.md").read_text()
    assert all(f"`{variable}`" in text for variable in variables)
