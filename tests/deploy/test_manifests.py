"""Everything that kustomize renders is accepted, strictly, by the oldest and the newest supported Kubernetes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from deploy.bundles import OLDEST_KUBERNETES, ROOT, Bundle, Renderer, build, combination, legal_combinations

SCHEMAS = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent / "schemas").glob("*.json")}


def validate(item: dict[str, Any], kubernetes: str) -> None:
    if item["kind"] in SCHEMAS:
        jsonschema.Draft202012Validator(SCHEMAS[item["kind"]]).validate(item)
    else:
        kubernetes_validate.validate(item, kubernetes, strict=True)


def distinct(bundles: list[Bundle]) -> Iterator[tuple[Bundle, dict[str, Any]]]:
    seen: set[tuple[int, str]] = set()
    for bundle in bundles:
        for item in bundle.objects:
            if (id(item), bundle.kubernetes) not in seen:
                seen.add((id(item), bundle.kubernetes))
                yield bundle, item


def test_every_legal_combination_is_rendered_and_no_component_is_left_out(bundles: list[Bundle]) -> None:
    combinations = list(legal_combinations())
    assert len(set(combinations)) == 512
    assert len(bundles) == 512 + 3
    components = {path.name for path in (ROOT / "k8s/components").iterdir() if path.is_dir()}
    assert components == {name for names in combinations for name in names}
    assert all(bundle.objects for bundle in bundles)


def test_every_object_is_valid_in_the_oldest_and_newest_kubernetes(bundles: list[Bundle]) -> None:
    newest = kubernetes_validate.latest_version()
    failures = []
    for bundle, item in distinct(bundles):
        for version in (bundle.kubernetes, newest):
            try:
                validate(item, version)
            except (jsonschema.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
                failures.append(f"{bundle.name}: {item['kind']} in {version}: {error.message}")
    assert not failures, "\n".join(failures)


def test_every_custom_resource_schema_is_used_and_itself_valid(bundles: list[Bundle]) -> None:
    kinds = {item["kind"] for _, item in distinct(bundles)}
    assert set(SCHEMAS) <= kinds
    for schema in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_a_group_of_combinations_renders_what_each_renders_alone(
    bundles: list[Bundle], new_renderer: Callable[..., Renderer]
) -> None:
    renderer = new_renderer()
    for bundle in bundles[3::101]:
        path = renderer.kustomization(
            f"alone{len(bundle.name)}", combination(bundle.components, "namespace: default\n")
        )
        alone = renderer.objects(build(renderer.kustomize, path))
        key = lambda item: (item["kind"], item["metadata"]["name"])  # noqa: E731
        assert sorted(alone, key=key) == sorted(bundle.objects, key=key), bundle.name


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("Deployment", lambda item: item["spec"].update(replica=2)),
        ("Deployment", lambda item: item["spec"]["template"]["spec"]["containers"][0].update(imagePullPolice="Always")),
        ("ServiceMonitor", lambda item: item["spec"]["endpoints"][0].update(portName="http")),
        ("PrometheusRule", lambda item: item["spec"]["groups"][0]["rules"][0].update(alert="Both")),
        ("ScaledObject", lambda item: item["spec"].update(minReplicas=1)),
        ("ScaledObject", lambda item: item["spec"]["triggers"][1]["metadata"].pop("query")),
        ("Certificate", lambda item: item["spec"].pop("issuerRef")),
        ("GRPCRoute", lambda item: item["spec"]["rules"][0]["matches"][0]["method"].update(path="/x")),
        ("HTTPRoute", lambda item: item["spec"]["rules"][0]["timeouts"].update(request="30 seconds")),
        ("BackendTLSPolicy", lambda item: item["spec"]["validation"].pop("hostname")),
    ],
)
def test_validation_refuses_a_wrong_field(bundles: list[Bundle], kind: str, change: Callable[[Any], Any]) -> None:
    item = next(item for bundle in bundles for item in bundle.of(kind))
    broken = json.loads(json.dumps(item))
    change(broken)
    with pytest.raises(jsonschema.ValidationError):
        validate(broken, OLDEST_KUBERNETES)


def test_the_oldest_kubernetes_is_really_needed(overlays: list[Bundle]) -> None:
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(overlays[0].one("Deployment"), "1.28", strict=True)
