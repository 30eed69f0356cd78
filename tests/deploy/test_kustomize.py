"""Everything that kustomize renders is valid Kubernetes, and deploys a server that is ready, balanced, drained, safe.

One file, because all of it is rendered once for it: run in parallel by files, the rendering is not repeated.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from deploy.bundles import OLDEST_KUBERNETES, ROOT, Bundle, Object, Renderer, build, combination, legal_combinations
from deploy.job_policies import JOB_POLICIES, job_violations, ray_groups
from deploy.policies import POLICIES, config, violations

from toolkit.deploy.render import RuntimeOptions, ServedModel, deployment_files, write

SCHEMAS = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent / "schemas").glob("*.json")}


def validate(item: dict[str, Any], kubernetes: str) -> None:
    if item["kind"] in SCHEMAS:
        jsonschema.Draft202012Validator(SCHEMAS[item["kind"]]).validate(item)
    else:
        kubernetes_validate.validate(item, kubernetes, strict=True)
    if item["kind"] == "RayJob":  # its pods by Kubernetes' own schema
        for group in ray_groups(item):
            template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "any"}, **group["spec"]}
            kubernetes_validate.validate(template, kubernetes, strict=True)


def distinct(bundles: list[Bundle]) -> Iterator[tuple[Bundle, dict[str, Any]]]:
    seen: set[tuple[int, str]] = set()
    for bundle in bundles:
        for item in bundle.objects:
            if (id(item), bundle.kubernetes) not in seen:
                seen.add((id(item), bundle.kubernetes))
                yield bundle, item


def test_any_three_components_that_go_together_are_rendered_together(bundles: list[Bundle]) -> None:
    combinations = list(legal_combinations())
    assert len(set(combinations)) == 768
    threes = {three for names in combinations for three in itertools.combinations(sorted(names), 3)}
    assert threes == {three for bundle in bundles for three in itertools.combinations(sorted(bundle.components), 3)}
    components = {path.name for path in (ROOT / "k8s/components").iterdir() if path.is_dir()}
    assert components == {name for names in combinations for name in names}
    assert any(not bundle.components for bundle in bundles)
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


def test_every_custom_resource_schema_is_used_and_itself_valid(bundles: list[Bundle], jobs: dict[str, Bundle]) -> None:
    kinds = {item["kind"] for _, item in distinct([*bundles, *jobs.values()])}
    assert set(SCHEMAS) <= kinds
    for schema in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_a_group_of_combinations_renders_what_each_renders_alone(
    bundles: list[Bundle], new_renderer: Callable[..., Renderer]
) -> None:
    renderer = new_renderer()
    for number, bundle in enumerate(bundles[3 :: len(bundles) // 6]):
        path = renderer.kustomization(f"alone{number}", combination(bundle.components, "namespace: default\n"))
        alone = renderer.objects(build(renderer.kustomize, path))
        key = lambda item: (item["kind"], item["metadata"]["name"])  # noqa: E731
        assert sorted(alone, key=key) == sorted(bundle.objects, key=key), bundle.name


def ray_head(item: Object) -> Object:
    group: Object = item["spec"]["rayClusterSpec"]["headGroupSpec"]
    return group


def ray_workers(item: Object) -> Object:
    group: Object = item["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    return group


def ray_pod(group: Object) -> Object:
    spec: Object = group["template"]["spec"]
    return spec


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
        ("Job", lambda item: item["spec"]["podFailurePolicy"]["rules"][0].update(onPodCondition=[])),
        ("RayJob", lambda item: item["spec"].update(entryPoint="sentence-serving embed")),
        ("RayJob", lambda item: item["spec"].update(submissionMode="HttpMode")),
        ("RayJob", lambda item: item["spec"]["rayClusterSpec"].pop("headGroupSpec")),
        ("RayJob", lambda item: ray_head(item)["rayStartParams"].update({"num-cpus": 0})),
        ("RayJob", lambda item: ray_workers(item).update(minReplicas="4")),
        ("RayJob", lambda item: ray_pod(ray_workers(item)).update(fsGroup=65532)),
        ("RayJob", lambda item: ray_pod(ray_head(item))["containers"][0].update(imagePullPolice="Always")),
    ],
)
def test_validation_refuses_a_wrong_field(
    bundles: list[Bundle], jobs: dict[str, Bundle], kind: str, change: Callable[[Any], Any]
) -> None:
    item = next(item for bundle in (*bundles, *jobs.values()) for item in bundle.of(kind))
    broken = json.loads(json.dumps(item))
    change(broken)
    with pytest.raises(jsonschema.ValidationError):
        validate(broken, OLDEST_KUBERNETES)


def test_the_oldest_kubernetes_is_really_needed(overlays: list[Bundle]) -> None:
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(overlays[0].one("Deployment"), "1.28", strict=True)


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
    (
        "the_entry_point_is_the_configurations_or_the_images",
        "Deployment",
        lambda item: server(item).update(command=["sh"]),
    ),
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


def test_a_name_prefix_reaches_the_accounts_of_a_ray_cluster(new_renderer: Callable[..., Renderer]) -> None:
    renderer = new_renderer()
    renderer.kustomization("prefixed", "namePrefix: team-\nresources: [../jobs/embed-ray]\n")
    job = renderer.folder("k8s/prefixed", ())
    accounts = {ray_pod(group["spec"])["serviceAccountName"] for group in ray_groups(job.one("RayJob"))}
    assert accounts == {job.one("ServiceAccount")["metadata"]["name"]} == {"team-sentence-serving-embed-ray"}
    assert not job.of("ConfigMap")  # the servers' own, which the job only copies from


def test_workers_of_ray_are_sized_by_the_models_that_are_rendered(
    new_renderer: Callable[..., Renderer], tmp_path: Path
) -> None:
    models = [ServedModel("other", (1,), 2_000_000_000)]
    write(deployment_files(models, RuntimeOptions(cpus=8), kubernetes=True), tmp_path)
    renderer = new_renderer(root=tmp_path)
    item = renderer.folder("k8s/jobs/embed-ray", ()).one("RayJob")
    assert "--cpus-per-worker 8 --artifact /models/other/1 " in item["spec"]["entrypoint"]
    limits = ray_pod(ray_workers(item))["containers"][0]["resources"]["limits"]
    model = config(renderer.folder("k8s/base", ()), "sentence-serving-model")
    assert (limits["cpu"], limits["memory"]) == ("8", model["MEMORY"])


def test_a_rendered_deployment_fits_its_models(new_renderer: Callable[..., Renderer], tmp_path: Path) -> None:
    models = [ServedModel("other", (1, 2), 2_000_000_000), ServedModel("minilm", (1,), 91_000_000)]
    write(deployment_files(models, RuntimeOptions(cpus=8), kubernetes=True), tmp_path)
    bundle = new_renderer(root=tmp_path).folder("k8s/overlays/prod", ())
    assert violations(bundle) == []
    assert bundle.server["readinessProbe"]["httpGet"]["path"] == "/v1/models/other/metadata"
    assert bundle.server["resources"]["limits"]["cpu"] == "8"
    assert bundle.server["resources"]["limits"]["memory"] == "9472Mi"


def test_a_model_that_batches_in_its_graph_is_deployed_without_server_side_batching(
    new_renderer: Callable[..., Renderer], tmp_path: Path
) -> None:
    model = ServedModel("other", (1,), 1_000_000, batches_in_graph=True)
    write(deployment_files([model], RuntimeOptions(), kubernetes=True), tmp_path)
    bundle = new_renderer(root=tmp_path).folder("k8s/overlays/dev", ())
    (config,) = (item["data"] for item in bundle.of("ConfigMap") if "models.config" in item["data"])
    assert "batching.config" not in config
    names = tuple(name for name in POLICIES if name != "resources_match_the_threads")
    assert violations(bundle, names) == []


def test_every_part_has_a_readme_and_the_overview_names_it() -> None:
    parts = [path.parent for path in ROOT.glob("k8s/**/kustomization.yaml")]
    assert len(parts) == 20
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


@pytest.fixture(scope="module")
def jobs(new_renderer: Callable[..., Renderer]) -> dict[str, Bundle]:
    renderer = new_renderer()
    folders = sorted(path.parent for path in ROOT.glob("k8s/jobs/*/kustomization.yaml"))
    return {folder.name: renderer.folder(f"k8s/jobs/{folder.name}", ()) for folder in folders}


def test_jobs_are_valid_in_the_oldest_and_newest_kubernetes(jobs: dict[str, Bundle]) -> None:
    assert set(jobs) == {"embed", "embed-ray", "loadtest", "loadtest-locust"}
    for item in (item for job in jobs.values() for item in job.objects):
        for version in (OLDEST_KUBERNETES, kubernetes_validate.latest_version()):
            validate(item, version)


def test_jobs_are_restricted_let_in_and_find_their_servers(jobs: dict[str, Bundle], overlays: list[Bundle]) -> None:
    assert "network-policy" in overlays[-1].components
    for job in jobs.values():
        assert job_violations(job, overlays[-1]) == []


def labels(item: Object) -> Object:
    found: Object = item["spec"]["template"]["metadata"]["labels"]
    return found


def replace_argument(item: Object, old: str, new: str) -> None:
    arguments = server(item)["args"]
    arguments[arguments.index(old)] = new


def replace_in_entrypoint(item: Object, old: str, new: str) -> None:
    assert item["spec"]["entrypoint"].count(old) == 1
    item["spec"]["entrypoint"] = item["spec"]["entrypoint"].replace(old, new)


COMPONENT = "app.kubernetes.io/component"
EMBED, EMBED_RAY = "sentence-serving-embed", "sentence-serving-embed-ray"
MASTER, WORKER = "sentence-serving-loadtest-master", "sentence-serving-loadtest-worker"

# policy, job, (kind, name) of the object to spoil, how, and the one violation that it is
SPOILED_JOBS: list[tuple[str, str, tuple[str, str], Callable[[Object], Any], str]] = [
    (
        "pods_meet_the_standard_of_the_servers",
        "loadtest",
        ("Job", "sentence-serving-loadtest"),
        lambda item: pod(item).update(hostNetwork=True),
        "sentence-serving-loadtest: hostNetwork is set",
    ),
    (
        "pods_meet_the_standard_of_the_servers",
        "loadtest-locust",
        ("Deployment", WORKER),
        lambda item: server(item)["securityContext"].update(privileged=True),
        f"{WORKER}: container worker: privileged is True, not False",
    ),
    (
        "pods_meet_the_standard_of_the_servers",
        "loadtest-locust",
        ("Deployment", MASTER),
        lambda item: pod(item).pop("automountServiceAccountToken"),
        f"{MASTER}: a service account token is mounted",
    ),
    (
        "resources_are_bounded",
        "loadtest",
        ("Job", "sentence-serving-loadtest"),
        lambda item: server(item)["resources"]["limits"].pop("ephemeral-storage"),
        "sentence-serving-loadtest: no request or no limit for CPU, memory or storage",
    ),
    (
        "resources_are_bounded",
        "loadtest-locust",
        ("Deployment", WORKER),
        lambda item: server(item)["resources"]["requests"].update(cpu="100m"),
        f"{WORKER}: it may get less CPU than it uses: a generator would measure itself",
    ),
    (
        "the_image_can_be_set_by_its_name",
        "loadtest",
        ("Job", "sentence-serving-loadtest"),
        lambda item: server(item).update(image="sentence-serving"),
        "sentence-serving-loadtest: image sentence-serving is not one that `images:` would replace",
    ),
    (
        "the_image_can_be_set_by_its_name",
        "loadtest-locust",
        ("Deployment", WORKER),
        lambda item: server(item).update(command=["locust"]),
        f"{WORKER}: command locust locust is not the package's",
    ),
    (
        "what_would_end_the_same_way_is_not_repeated",
        "loadtest",
        ("Job", "sentence-serving-loadtest"),
        lambda item: item["spec"].update(backoffLimit=3),
        "sentence-serving-loadtest: a failed load test would run again",
    ),
    (
        "the_servers_are_there_and_let_the_pods_in",
        "loadtest-locust",
        ("Deployment", WORKER),
        lambda item: labels(item).pop("sentence-serving/client"),
        f"{WORKER}: the servers' network policy lets none of its pods in",
    ),
    (
        "the_servers_are_there_and_let_the_pods_in",
        "loadtest",
        ("Job", "sentence-serving-loadtest"),
        lambda item: replace_argument(item, "grpc://sentence-serving-grpc:8500", "grpc://sentence-serving-grpc:8501"),
        "sentence-serving-loadtest: grpc://sentence-serving-grpc:8501 is no service of the servers",
    ),
    (
        "the_servers_are_there_and_let_the_pods_in",
        "loadtest-locust",
        ("Deployment", MASTER),
        lambda item: replace_argument(item, "--host=grpc://sentence-serving-grpc:8500", "--host=grpc://other:8500"),
        f"{MASTER}: grpc://other:8500 is no service of the servers",
    ),
    (
        "selectors_choose_one_workload_by_its_named_ports",
        "loadtest-locust",
        ("Deployment", WORKER),
        lambda item: item["spec"]["selector"]["matchLabels"].pop(COMPONENT),
        f"deployment {WORKER} does not select its own pods alone",
    ),
    (
        "selectors_choose_one_workload_by_its_named_ports",
        "loadtest-locust",
        ("Service", MASTER),
        lambda item: item["spec"]["selector"].pop(COMPONENT),
        f"service {MASTER} selects 2 workloads",
    ),
    (
        "selectors_choose_one_workload_by_its_named_ports",
        "loadtest-locust",
        ("Service", MASTER),
        lambda item: item["spec"]["ports"][0].update(targetPort="web"),
        f"service {MASTER} leads to ports that {MASTER} does not have by name",
    ),
    (
        "workers_and_they_alone_reach_the_master",
        "loadtest-locust",
        ("Deployment", WORKER),
        lambda item: replace_argument(item, f"--master-host={MASTER}", "--master-host=master"),
        "--master-host is master, which is no service of the master",
    ),
    (
        "workers_and_they_alone_reach_the_master",
        "loadtest-locust",
        ("Service", MASTER),
        lambda item: item["metadata"].update(name="locust"),
        f"--master-host is {MASTER}, which is no service of the master",
    ),
    (
        "workers_and_they_alone_reach_the_master",
        "loadtest-locust",
        ("Service", MASTER),
        lambda item: item["spec"]["ports"].append({"name": "web", "port": 8089, "targetPort": "web"}),
        f"service {MASTER} does not carry port 5557, and nothing else",
    ),
    (
        "workers_and_they_alone_reach_the_master",
        "loadtest-locust",
        ("Deployment", MASTER),
        lambda item: item["spec"].update(replicas=2),
        "there is more than one master, or none",
    ),
    (
        "workers_and_they_alone_reach_the_master",
        "loadtest-locust",
        ("NetworkPolicy", MASTER),
        lambda item: item["spec"]["podSelector"]["matchLabels"].update({COMPONENT: "worker"}),
        "0 network policies guard the master, and it alone",
    ),
    (
        "workers_and_they_alone_reach_the_master",
        "loadtest-locust",
        ("NetworkPolicy", MASTER),
        lambda item: item["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"].pop(COMPONENT),
        "the master's network policy lets in others than the workers",
    ),
    (
        "workers_and_they_alone_reach_the_master",
        "loadtest-locust",
        ("NetworkPolicy", MASTER),
        lambda item: item["spec"]["ingress"][0].pop("from"),
        "the master's network policy lets in others than the workers",
    ),
    (
        "workers_and_they_alone_reach_the_master",
        "loadtest-locust",
        ("NetworkPolicy", MASTER),
        lambda item: item["spec"]["ingress"][0]["ports"][0].update(port="web"),
        "the master's network policy opens other ports than the workers'",
    ),
    (
        "what_would_end_the_same_way_is_not_repeated",
        "embed",
        ("Job", EMBED),
        lambda item: item["spec"].update(backoffLimit=3),
        f"{EMBED}: shards are not repeated a few times, each by itself",
    ),
    (
        "what_would_end_the_same_way_is_not_repeated",
        "embed",
        ("Job", EMBED),
        lambda item: item["spec"].pop("backoffLimitPerIndex"),
        f"{EMBED}: shards are not repeated a few times, each by itself",
    ),
    (
        "what_would_end_the_same_way_is_not_repeated",
        "embed",
        ("Job", EMBED),
        lambda item: pod(item).update(restartPolicy="OnFailure"),
        f"{EMBED}: a container would be repeated in its pod, whatever it ended with",
    ),
    (
        "what_would_end_the_same_way_is_not_repeated",
        "embed",
        ("Job", EMBED),
        lambda item: item["spec"]["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"].remove(2),
        f"{EMBED}: exit codes [3, 4, 6] end a shard, not [2, 3, 4, 6]",
    ),
    (
        "what_would_end_the_same_way_is_not_repeated",
        "embed",
        ("Job", EMBED),
        lambda item: item["spec"]["podFailurePolicy"]["rules"][1].update(action="FailJob"),
        f"{EMBED}: exit codes [] end a shard, not [2, 3, 4, 6]",
    ),
    (
        "what_would_end_the_same_way_is_not_repeated",
        "embed",
        ("Job", EMBED),
        lambda item: item["spec"]["podFailurePolicy"]["rules"].pop(0),
        f"{EMBED}: a drained node counts as a failure",
    ),
    (
        "what_would_end_the_same_way_is_not_repeated",
        "embed",
        ("Job", EMBED),
        lambda item: item["spec"].pop("podReplacementPolicy"),
        f"{EMBED}: two pods of a shard may work at a time",
    ),
    (
        "what_would_end_the_same_way_is_not_repeated",
        "embed-ray",
        ("RayJob", EMBED_RAY),
        lambda item: item["spec"].update(backoffLimit=1),
        f"{EMBED_RAY}: a failed job would be submitted again",
    ),
    (
        "what_would_end_the_same_way_is_not_repeated",
        "embed-ray",
        ("RayJob", EMBED_RAY),
        lambda item: item["spec"].pop("submissionMode"),
        f"{EMBED_RAY}: a failed job would be submitted again",
    ),
    (
        "bulk_embedding_continues_where_it_was",
        "embed",
        ("Job", EMBED),
        lambda item: server(item)["args"].remove("--resume"),
        f"{EMBED}: without --resume a repetition, or a shard that starts late, is refused",
    ),
    (
        "bulk_embedding_continues_where_it_was",
        "embed-ray",
        ("RayJob", EMBED_RAY),
        lambda item: replace_in_entrypoint(item, " --resume", ""),
        f"{EMBED_RAY}: without --resume a repetition, or a shard that starts late, is refused",
    ),
    (
        "every_part_has_its_shard",
        "embed",
        ("Job", EMBED),
        lambda item: item["spec"].update(completions=4),
        f"{EMBED}: --shard=/8 for 4 pods",
    ),
    (
        "every_part_has_its_shard",
        "loadtest",
        ("Job", "sentence-serving-loadtest"),
        lambda item: server(item)["args"].append("--shard=/1"),
        "sentence-serving-loadtest: --shard and Indexed do not go together",
    ),
    (
        "claims_are_named_in_the_readme",
        "embed",
        ("Job", EMBED),
        lambda item: pod(item)["volumes"][0]["persistentVolumeClaim"].update(claimName="other"),
        f"{EMBED}: nobody is told to make the claim other",
    ),
    (
        "claims_are_named_in_the_readme",
        "embed-ray",
        ("RayJob", EMBED_RAY),
        lambda item: ray_pod(ray_workers(item))["volumes"].pop(),
        "ray-worker: mounts tmp, which is not there",
    ),
    (
        "pods_meet_the_standard_of_the_servers",
        "embed-ray",
        ("RayJob", EMBED_RAY),
        lambda item: ray_pod(ray_head(item)).update(hostNetwork=True),
        "ray-head: hostNetwork is set",
    ),
    (
        "pods_meet_the_standard_of_the_servers",
        "embed-ray",
        ("RayJob", EMBED_RAY),
        lambda item: ray_pod(ray_workers(item)).pop("automountServiceAccountToken"),
        "ray-worker: a service account token is mounted",
    ),
    (
        "the_image_can_be_set_by_its_name",
        "embed-ray",
        ("RayJob", EMBED_RAY),
        lambda item: ray_pod(ray_workers(item))["containers"][0].update(image="rayproject/ray"),
        "ray-worker: image rayproject/ray is not one that `images:` would replace",
    ),
    (
        "the_image_can_be_set_by_its_name",
        "embed-ray",
        ("RayJob", EMBED_RAY),
        lambda item: replace_in_entrypoint(item, "sentence-serving embed", "sentence-serving loadtest"),
        f"{EMBED_RAY}: command sentence-serving loadtest is not the package's",
    ),
    (
        "the_servers_are_there_and_let_the_pods_in",
        "embed",
        ("Job", EMBED),
        lambda item: replace_argument(item, "--url=grpc://sentence-serving-grpc:8500", "--url=grpc://other:8500"),
        f"{EMBED}: grpc://other:8500 is no service of the servers",
    ),
    (
        "the_servers_are_there_and_let_the_pods_in",
        "embed-ray",
        ("RayJob", EMBED_RAY),
        lambda item: ray_workers(item)["template"]["metadata"]["labels"].pop("sentence-serving/client"),
        "ray-worker: the servers' network policy lets none of its pods in",
    ),
    (
        "workers_that_load_the_model_are_sized_as_its_servers",
        "embed-ray",
        ("RayJob", EMBED_RAY),
        lambda item: replace_in_entrypoint(item, "/models/minilm/", "/models/other/"),
        f"{EMBED_RAY}: --artifact /models/other/1 is not of the model minilm",
    ),
    (
        "workers_that_load_the_model_are_sized_as_its_servers",
        "embed-ray",
        ("RayJob", EMBED_RAY),
        lambda item: replace_in_entrypoint(item, "--cpus-per-worker 2", "--cpus-per-worker 1"),
        f"{EMBED_RAY}: an actor does not have the CPUs of its pod",
    ),
    (
        "workers_that_load_the_model_are_sized_as_its_servers",
        "embed-ray",
        ("RayJob", EMBED_RAY),
        lambda item: ray_pod(ray_workers(item))["containers"][0]["resources"]["limits"].update(memory="1Gi"),
        "ray-worker: limits {'cpu': '2', 'memory': '1Gi'}, not those of serving/model.env",
    ),
    (
        "workers_that_load_the_model_are_sized_as_its_servers",
        "embed-ray",
        ("RayJob", EMBED_RAY),
        lambda item: ray_pod(ray_head(item))["containers"][0]["volumeMounts"][0].pop("readOnly"),
        "ray-head: the models are not mounted, or not read-only",
    ),
    (
        "workers_that_load_the_model_are_sized_as_its_servers",
        "embed-ray",
        ("RayJob", EMBED_RAY),
        lambda item: ray_head(item)["rayStartParams"].pop("num-cpus"),
        "ray-head: actors may work beside what leads them",
    ),
    (
        "the_cluster_and_its_operator_alone_reach_ray",
        "embed-ray",
        ("RayJob", EMBED_RAY),
        lambda item: item["spec"].pop("shutdownAfterJobFinishes"),
        f"{EMBED_RAY}: its cluster stays when it is done",
    ),
    (
        "the_cluster_and_its_operator_alone_reach_ray",
        "embed-ray",
        ("RayJob", EMBED_RAY),
        lambda item: ray_pod(ray_head(item))["containers"][0]["ports"].pop(1),
        "ray-head has no port called dashboard",
    ),
    (
        "the_cluster_and_its_operator_alone_reach_ray",
        "embed-ray",
        ("RayJob", EMBED_RAY),
        lambda item: ray_workers(item)["template"]["metadata"]["labels"].pop("sentence-serving/ray"),
        "0 network policies guard head and workers",
    ),
    (
        "the_cluster_and_its_operator_alone_reach_ray",
        "embed-ray",
        ("NetworkPolicy", EMBED_RAY),
        lambda item: item["spec"]["ingress"][1]["from"][0].pop("podSelector"),
        "others than the cluster's pods and the operator are let in, or to other ports",
    ),
    (
        "the_cluster_and_its_operator_alone_reach_ray",
        "embed-ray",
        ("NetworkPolicy", EMBED_RAY),
        lambda item: item["spec"]["ingress"][1].pop("ports"),
        "others than the cluster's pods and the operator are let in, or to other ports",
    ),
]


def test_every_policy_of_jobs_is_shown_to_notice_something() -> None:
    assert {name for name, *_ in SPOILED_JOBS} == set(JOB_POLICIES)


@pytest.mark.parametrize(("name", "job", "which", "spoil", "text"), SPOILED_JOBS)
def test_a_spoiled_job_is_caught_by_its_own_violation(
    jobs: dict[str, Bundle],
    overlays: list[Bundle],
    name: str,
    job: str,
    which: tuple[str, str],
    spoil: Callable[[Object], Any],
    text: str,
) -> None:
    spoiled = replace(jobs[job], objects=copy.deepcopy(jobs[job].objects))
    spoil(spoiled.one(*which))
    assert job_violations(spoiled, overlays[-1]) == [f"{name}: {text}"]
