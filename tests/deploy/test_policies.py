"""The rendered objects deploy a server that is ready when it says so, balanced, drained, locked down."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from deploy.bundles import ROOT, Bundle, Object, Renderer
from deploy.policies import POLICIES, violations


@pytest.mark.parametrize("name", POLICIES)
def test_policy_holds_for_everything_that_is_rendered(bundles: list[Bundle], name: str) -> None:
    found = [f"{bundle.name}: {text}" for bundle in bundles for text in violations(bundle, (name,))]
    assert not found, "\n".join(found[:20])


def pod(item: Object) -> Object:
    spec: Object = item["spec"]["template"]["spec"]
    return spec


def server(item: Object) -> Object:
    container: Object = pod(item)["containers"][0]
    return container


# policy -> (kind of the object to spoil, how)
SPOILED: list[tuple[str, str, Callable[[Object], Any]]] = [
    ("pods_meet_the_restricted_security_standard", "Deployment", lambda item: pod(item).update(hostNetwork=True)),
    (
        "pods_meet_the_restricted_security_standard",
        "Deployment",
        lambda item: server(item)["securityContext"].pop("capabilities"),
    ),
    ("no_pod_holds_a_token_of_the_api", "Deployment", lambda item: pod(item).pop("automountServiceAccountToken")),
    (
        "rollouts_and_drains_lose_no_request",
        "Deployment",
        lambda item: item["spec"]["strategy"]["rollingUpdate"].update(maxUnavailable=1),
    ),
    ("rollouts_and_drains_lose_no_request", "PodDisruptionBudget", lambda item: item["spec"].update(minAvailable=2)),
    (
        "probes_ask_the_served_model",
        "Deployment",
        lambda item: server(item)["readinessProbe"]["httpGet"].update(path="/v1/models/minilm"),
    ),
    ("resources_match_the_threads", "Deployment", lambda item: server(item)["resources"]["limits"].update(cpu="4")),
    ("ports_are_named_and_match_the_configuration", "Service", lambda item: item["spec"]["ports"][0].update(port=9000)),
    ("selectors_match_the_pods", "Service", lambda item: item["spec"]["selector"].update(app="other")),
    (
        "grpc_is_balanced_by_clients_and_rest_by_the_cluster",
        "Service",
        lambda item: item["spec"].update(clusterIP="None"),
    ),
    ("replicas_have_one_owner", "Deployment", lambda item: item["spec"].update(replicas=2)),
    ("replicas_have_one_owner", "HorizontalPodAutoscaler", lambda item: item["spec"].update(minReplicas=1)),
    ("references_resolve", "Deployment", lambda item: pod(item).update(volumes=[])),
    ("references_resolve", "HTTPRoute", lambda item: item["spec"]["rules"][0]["backendRefs"][0].update(port=80)),
    ("the_entry_point_comes_from_the_configuration", "Deployment", lambda item: server(item).update(command=["sh"])),
    (
        "metrics_are_scraped_once_where_the_server_offers_them",
        "ServiceMonitor",
        lambda item: item["spec"]["selector"]["matchLabels"].pop("app.kubernetes.io/component"),
    ),
    (
        "nothing_administrative_leaves_the_cluster",
        "GRPCRoute",
        lambda item: item["spec"]["rules"][0]["matches"][1]["method"].pop("method"),
    ),
    ("tls_is_said_everywhere_or_nowhere", "BackendTLSPolicy", lambda item: item.update(kind="Gone")),
]


def test_every_policy_is_shown_to_notice_something() -> None:
    assert {name for name, _, _ in SPOILED} == set(POLICIES)


@pytest.mark.parametrize(("name", "kind", "spoil"), SPOILED)
def test_policy_notices_a_spoiled_object(
    bundles: list[Bundle], name: str, kind: str, spoil: Callable[[Object], Any]
) -> None:
    full = next(bundle for bundle in bundles if {"hpa", "tls", "gateway", "monitoring"} <= set(bundle.components))
    objects = copy.deepcopy(full.objects)
    spoil(next(item for item in objects if item["kind"] == kind))
    assert violations(full) == []
    assert violations(replace(full, objects=objects), (name,))


def test_a_name_prefix_reaches_every_reference(new_renderer: Callable[..., Renderer]) -> None:
    renderer = new_renderer()
    components = ("keda", "model-from-pvc", "tls", "gateway", "gateway-backend-tls", "monitoring", "network-policy")
    listed = ", ".join(f"../components/{name}" for name in components)
    renderer.kustomization("prefixed", f"namePrefix: team-\nresources: [../base]\ncomponents: [{listed}]\n")
    bundle = renderer.folder("k8s/prefixed", components)
    assert all(item["metadata"]["name"].startswith("team-") for item in bundle.objects)
    assert violations(bundle) == []


def test_every_part_has_a_readme_and_the_overview_names_it() -> None:
    parts = [path.parent for path in ROOT.glob("k8s/**/kustomization.yaml")]
    assert len(parts) == 15
    overview = (ROOT / "k8s/README.md").read_text()
    for part in (*parts, ROOT / "serving"):
        assert (part / "README.md").is_file(), part
    for part in parts:
        assert f"({part.relative_to(ROOT / 'k8s').as_posix()}/README.md)" in overview, part


def test_the_overlays_namespaces_enforce_the_restricted_standard(overlays: list[Bundle]) -> None:
    for bundle in overlays[1:]:
        namespace = bundle.one("Namespace")
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        assert all(
            item["metadata"]["namespace"] == namespace["metadata"]["name"]
            for item in bundle.objects
            if item["kind"] != "Namespace"
        )


def test_an_object_store_stays_reachable_under_the_network_policy(bundles: list[Bundle]) -> None:
    for bundle in bundles:
        ports = [
            port["port"]
            for item in bundle.of("NetworkPolicy")
            for rule in item["spec"].get("egress", ())
            for port in rule["ports"]
        ]
        assert (443 in ports) == ("model-from-object-store" in bundle.components), bundle.name
