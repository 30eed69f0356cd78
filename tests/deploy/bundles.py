"""Renders k8s/ with the real kustomize: every base and overlay, and legal combinations of components.

By default these are as many as bring every three choices together (an autoscaler, a source of models and an edge, say);
with ``EVERY_COMBINATION=1`` in the environment they are all.

A combination costs kustomize most of a second when it is built alone, a tenth when many are built together, each in a
namespace of its own; so they are built in groups and told apart by that namespace.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
OLDEST_KUBERNETES = "1.30"  # the first with preStop sleep on by default
OLDEST_WITH_IMAGE_VOLUMES = "1.33"  # the first where image volumes can be used without an alpha feature

AUTOSCALING = (None, "hpa", "hpa-queue-latency", "keda")
MODEL_SOURCES = (None, "model-from-pvc", "model-from-object-store", "model-from-image")
EDGES: tuple[tuple[str, ...], ...] = ((), ("tls",), ("gateway",), ("tls", "gateway", "gateway-backend-tls"))
ENGINES = (None, "embedded-server", "gpu")  # the embedded server's image has no CUDA
INDEPENDENT = ("monitoring", "network-policy")
_GROUP = 16

Object = dict[str, Any]


@dataclass(frozen=True)
class Bundle:
    """One rendered kustomization: its name, the components in it, its objects, shared between bundles."""

    name: str
    components: tuple[str, ...]
    objects: tuple[Object, ...] = field(repr=False)

    def of(self, kind: str) -> list[Object]:
        return [item for item in self.objects if item["kind"] == kind]

    def one(self, kind: str, name: str | None = None) -> Object:
        found = [item for item in self.of(kind) if name is None or item["metadata"]["name"] == name]
        assert len(found) == 1, f"{self.name}: {len(found)} objects of kind {kind} {name or ''}"
        return found[0]

    @property
    def pod(self) -> Object:
        spec: Object = self.one("Deployment")["spec"]["template"]["spec"]
        return spec

    @property
    def server(self) -> Object:
        container: Object = next(item for item in self.pod["containers"] if item["name"] == "server")
        return container

    @property
    def kubernetes(self) -> str:
        return OLDEST_WITH_IMAGE_VOLUMES if "model-from-image" in self.components else OLDEST_KUBERNETES


def legal_combinations() -> Iterator[tuple[str, ...]]:
    """At most one autoscaler, source of models and engine; a gateway before TLS needs a policy; the others are free."""
    return map(_components, _choices())


def chosen_combinations() -> list[tuple[str, ...]]:
    """The legal combinations to render: those that bring every three choices together, or all."""
    every = list(_choices())
    if os.environ.get("EVERY_COMBINATION") == "1":
        return list(map(_components, every))
    threes = {choice: set(itertools.combinations(enumerate(choice), 3)) for choice in every}
    missing = set().union(*threes.values())
    found = []
    while missing:
        best = max(every, key=lambda choice: len(threes[choice] & missing))
        missing -= threes[best]
        found.append(_components(best))
    return found


def _choices() -> Iterator[tuple[tuple[str, ...], ...]]:
    """One of each group of components: those of an autoscaler, of a source of models, and so on."""
    alone = [[(name,) if name else () for name in group] for group in (AUTOSCALING, MODEL_SOURCES, ENGINES)]
    free = [[(), (name,)] for name in INDEPENDENT]
    return itertools.product(alone[0], alone[1], EDGES, alone[2], *free)


def _components(choice: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    return tuple(itertools.chain.from_iterable(choice))


def build(kustomize: str, folder: Path) -> str:
    environment = {**os.environ, "GOGC": "400"}  # trades memory for a fifth of the time
    command = [kustomize, "build", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert result.returncode == 0, f"kustomize build {folder}: {result.stderr}"
    assert not result.stderr, f"kustomize build {folder} warns: {result.stderr}"
    return result.stdout


class Renderer:
    """Builds kustomizations in a copy of the tree and parses each distinct object once."""

    def __init__(self, kustomize: str, work: Path, root: Path = ROOT) -> None:
        self.kustomize = kustomize
        self.work = work
        self._parsed: dict[str, Object] = {}
        for name in ("k8s", "serving"):
            shutil.copytree(root / name, work / name)

    def objects(self, text: str) -> tuple[Object, ...]:
        return tuple(self._parse(document) for document in re.split(r"^---\n", text, flags=re.MULTILINE) if document)

    def _parse(self, document: str) -> Object:
        if document not in self._parsed:
            self._parsed[document] = yaml.load(document, Loader=yaml.CSafeLoader)
        return self._parsed[document]

    def folder(self, name: str, components: tuple[str, ...]) -> Bundle:
        return Bundle(name, components, self.objects(build(self.kustomize, self.work / name)))

    def kustomization(self, name: str, text: str) -> Path:
        path = self.work / "k8s" / name
        path.mkdir()
        (path / "kustomization.yaml").write_text(text)
        return path

    def combinations(self) -> list[Bundle]:
        chosen = chosen_combinations()
        groups = [chosen[start : start + _GROUP] for start in range(0, len(chosen), _GROUP)]
        with ThreadPoolExecutor(2) as pool:
            return list(itertools.chain.from_iterable(pool.map(self._group, range(len(groups)), groups)))

    def _group(self, number: int, combinations: list[tuple[str, ...]]) -> list[Bundle]:
        for index, components in enumerate(combinations):
            self.kustomization(f"c{number}-{index}", combination(components, f"namespace: ns{index}x\n"))
        listed = ", ".join(f"../c{number}-{index}" for index in range(len(combinations)))
        text = build(self.kustomize, self.kustomization(f"group{number}", f"resources: [{listed}]\n"))
        documents: dict[int, list[str]] = {index: [] for index in range(len(combinations))}
        for document in re.split(r"^---\n", text, flags=re.MULTILINE):
            match = re.search(r"^  namespace: ns(\d+)x$", document, flags=re.MULTILINE)
            assert match, f"an object of a combination has no namespace:\n{document}"
            documents[int(match[1])].append(re.sub(r"\bns\d+x\b", "default", document))
        return [
            Bundle(
                "base + " + (" + ".join(components) or "nothing"), components, tuple(map(self._parse, documents[index]))
            )
            for index, components in enumerate(combinations)
        ]


def combination(components: tuple[str, ...], head: str = "") -> str:
    listed = ", ".join(f"../components/{name}" for name in components)
    return f"{head}resources: [../base]\n" + (f"components: [{listed}]\n" if components else "")
