"""What must hold for everything that is rendered. A policy takes a bundle and yields what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from deploy.bundles import Bundle, Object

Policy = Callable[[Bundle], Iterator[str]]
POLICIES: dict[str, Policy] = {}

# What a bundle refers to but leaves to the cluster's owner; each is named in the component's README.
EXTERNAL = {
    ("Secret", "sentence-serving-object-store"),
    ("Secret", "sentence-serving-tls"),  # written by cert-manager for the Certificate
    ("ConfigMap", "sentence-serving-ca"),
}


def policy(function: Policy) -> Policy:
    POLICIES[function.__name__] = function
    return function


def labels_of(item: Object) -> dict[str, str]:
    return item["metadata"].get("labels", {})


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def containers(bundle: Bundle) -> list[Object]:
    return [*bundle.pod.get("initContainers", ()), *bundle.pod["containers"]]


def config(bundle: Bundle, name: str = "sentence-serving-config") -> dict[str, str]:
    found = [
        item
        for item in bundle.of("ConfigMap")
        if re.fullmatch(rf"(.*-)?{name}(-[a-z0-9]{{10}})?", item["metadata"]["name"])
    ]
    assert len(found) == 1, f"{bundle.name}: {len(found)} ConfigMaps {name}"
    data: dict[str, str] = found[0]["data"]
    return data


def environment(container: Object) -> dict[str, str]:
    return {item["name"]: item.get("value", "") for item in container.get("env", ())}


def cpus(quantity: str) -> float:
    return int(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


@policy
def pods_meet_the_restricted_security_standard(bundle: Bundle) -> Iterator[str]:
    pod = bundle.pod
    for field in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
        if pod.get(field):
            yield f"{field} is set"
    context = pod["securityContext"]
    if not context.get("runAsNonRoot") or not context.get("runAsUser"):
        yield "the pod may run as root"
    allowed = {"configMap", "emptyDir", "secret", "persistentVolumeClaim", "image"}
    for volume in pod["volumes"]:
        if set(volume) - {"name"} - allowed:
            yield f"volume {volume['name']} is not of a restricted type"
    for container in containers(bundle):
        own = container.get("securityContext", {})
        expected = {
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        for key, value in expected.items():
            if own.get(key) != value:
                yield f"container {container['name']}: {key} is {own.get(key)!r}, not {value!r}"
        if "hostPort" in str(container.get("ports", ())):
            yield f"container {container['name']} takes a port of the host"


@policy
def no_pod_holds_a_token_of_the_api(bundle: Bundle) -> Iterator[str]:
    account = bundle.one("ServiceAccount")
    if bundle.pod.get("serviceAccountName") != account["metadata"]["name"]:
        yield "the pod does not use the bundle's service account"
    if (
        account.get("automountServiceAccountToken") is not False
        or bundle.pod.get("automountServiceAccountToken") is not False
    ):
        yield "a service account token is mounted"
    if bundle.pod.get("enableServiceLinks") is not False:
        yield "other services' addresses appear in the environment"


@policy
def rollouts_and_drains_lose_no_request(bundle: Bundle) -> Iterator[str]:
    deployment = bundle.one("Deployment")["spec"]
    rolling = deployment["strategy"]["rollingUpdate"]
    if rolling["maxUnavailable"] != 0 or rolling["maxSurge"] < 1:
        yield "a rollout takes an old pod before a new one is ready"
    seconds = bundle.server["lifecycle"]["preStop"]["sleep"]["seconds"]
    if seconds < 10:
        yield f"preStop sleeps {seconds} s, too short for endpoints to be withdrawn"
    if bundle.pod["terminationGracePeriodSeconds"] < seconds + 30:
        yield "the grace period leaves requests no time after preStop"
    budget = bundle.one("PodDisruptionBudget")["spec"]
    if budget.get("maxUnavailable") != 1 or "minAvailable" in budget:
        yield "the disruption budget blocks drains or allows more than one pod at a time"
    if budget.get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
        yield "pods that never became ready block drains"


@policy
def probes_ask_the_served_model(bundle: Bundle) -> Iterator[str]:
    names = re.findall(r'\bname: "([^"]+)"', config(bundle)["models.config"])
    metadata = f"/v1/models/{names[0]}/metadata"
    expected = {"startupProbe": metadata, "readinessProbe": metadata, "livenessProbe": f"/v1/models/{names[0]}"}
    for probe, path in expected.items():
        get = bundle.server.get(probe, {}).get("httpGet", {})
        if get != {"path": path, "port": "http"}:
            yield f"{probe} asks {get}, not {path} on port http"
    for container in bundle.pod["containers"]:
        if "readinessProbe" not in container:
            yield f"container {container['name']} has no readiness probe"
    liveness, startup = bundle.server["livenessProbe"], bundle.server["startupProbe"]
    if liveness["periodSeconds"] * liveness["failureThreshold"] < 60:
        yield "liveness restarts a busy server within a minute"
    if startup["periodSeconds"] * startup["failureThreshold"] < 300:
        yield "a large model has less than five minutes to load"


@policy
def resources_match_the_threads(bundle: Bundle) -> Iterator[str]:
    limits, requests = bundle.server["resources"]["limits"], bundle.server["resources"]["requests"]
    batching = config(bundle)["batching.config"]
    threads = re.search(r"num_batch_threads \{ value: (\d+) \}", batching)
    if threads is None or cpus(limits["cpu"]) != int(threads[1]):
        yield f"the CPU limit {limits['cpu']} is not the number of batch threads {threads and threads[1]}"
    if not cpus(limits["cpu"]).is_integer():
        yield f"the CPU limit {limits['cpu']} is not whole"
    if limits["memory"] != requests["memory"]:
        yield "memory is overcommitted"
    if cpus(requests["cpu"]) > cpus(limits["cpu"]) or ("dev" not in bundle.name and requests["cpu"] != limits["cpu"]):
        yield f"the CPU request {requests['cpu']} does not match the limit {limits['cpu']}"
    for container in containers(bundle):
        for kind in ("requests", "limits"):
            if {"cpu", "memory", "ephemeral-storage"} - set(container.get("resources", {}).get(kind, ())):
                yield f"container {container['name']} has no {kind} for CPU, memory or storage"


@policy
def ports_are_named_and_match_the_configuration(bundle: Bundle) -> Iterator[str]:
    ports = {item["name"]: item["containerPort"] for item in bundle.server["ports"]}
    variables = environment(bundle.server)
    if ports != {"grpc": int(variables["SERVING_GRPC_PORT"]), "http": int(variables["SERVING_REST_PORT"])}:
        yield f"the container's ports {ports} are not those that the server is told"
    for service in bundle.of("Service"):
        for port in service["spec"]["ports"]:
            if port.get("name") != port["targetPort"] or ports.get(port["targetPort"]) != port["port"]:
                yield f"service {service['metadata']['name']}: port {port} is not one of {ports} by name"
    for item in bundle.of("NetworkPolicy"):
        for rule in item["spec"].get("ingress", ()):
            if {port["port"] for port in rule["ports"]} - set(ports):
                yield f"network policy {item['metadata']['name']} opens ports that nobody listens on"


@policy
def selectors_match_the_pods(bundle: Bundle) -> Iterator[str]:
    deployment = bundle.one("Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    selectors = {"the deployment": deployment["selector"]["matchLabels"]}
    for service in bundle.of("Service"):
        selectors[f"service {service['metadata']['name']}"] = service["spec"]["selector"]
    for kind, field in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        for item in bundle.of(kind):
            selectors[f"{kind} {item['metadata']['name']}"] = item["spec"][field]["matchLabels"]
    constraints = bundle.pod["topologySpreadConstraints"]
    for constraint in constraints:
        selectors[f"the spread over {constraint['topologyKey']}"] = constraint["labelSelector"]["matchLabels"]
    for what, selector in selectors.items():
        if not selector or not matches(selector, labels):
            yield f"{what} selects {selector}, which the pods {labels} do not have"
    if {item["topologyKey"] for item in constraints} != {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}:
        yield "pods are not spread over zones and nodes"


@policy
def grpc_is_balanced_by_clients_and_rest_by_the_cluster(bundle: Bundle) -> Iterator[str]:
    headless = {
        port["name"]
        for item in bundle.of("Service")
        if item["spec"].get("clusterIP") == "None"
        for port in item["spec"]["ports"]
    }
    virtual = {
        port["name"]
        for item in bundle.of("Service")
        if item["spec"].get("clusterIP") != "None"
        for port in item["spec"]["ports"]
    }
    if headless != {"grpc"} or virtual != {"http"}:
        yield f"headless services carry {headless}, virtual addresses {virtual}"
    if not 60_000 <= int(environment(bundle.server).get("SERVING_MAX_CONNECTION_AGE_MS", "0")) <= 3_600_000:
        yield "gRPC connections are never renewed, or all the time"


@policy
def replicas_have_one_owner(bundle: Bundle) -> Iterator[str]:
    deployment = bundle.one("Deployment")
    scalers = [*bundle.of("HorizontalPodAutoscaler"), *bundle.of("ScaledObject")]
    if len(scalers) > 1 or bool(scalers) == ("replicas" in deployment["spec"]):
        yield f"{len(scalers)} autoscalers and replicas {deployment['spec'].get('replicas')}"
    for scaler in scalers:
        spec = scaler["spec"]
        target = spec["scaleTargetRef"]
        if (target["kind"], target["name"]) != ("Deployment", deployment["metadata"]["name"]):
            yield f"the autoscaler scales {target}"
        low = spec.get("minReplicas", spec.get("minReplicaCount"))
        high = spec.get("maxReplicas", spec.get("maxReplicaCount"))
        if not 2 <= low < high:
            yield f"replicas from {low} to {high}: fewer than two do not survive a drain"


def _references(bundle: Bundle) -> Iterator[tuple[str, str]]:
    for volume in bundle.pod["volumes"]:
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
    for container in containers(bundle):
        for source in container.get("envFrom", ()):
            for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if key in source:
                    yield kind, source[key]["name"]
        for variable in container.get("env", ()):
            if "configMapKeyRef" in variable.get("valueFrom", {}):
                yield "ConfigMap", variable["valueFrom"]["configMapKeyRef"]["name"]
    for item in bundle.of("BackendTLSPolicy"):
        for target in (*item["spec"]["targetRefs"], *item["spec"]["validation"]["caCertificateRefs"]):
            yield target["kind"], target["name"]


@policy
def references_resolve(bundle: Bundle) -> Iterator[str]:
    present = {(item["kind"], item["metadata"]["name"]) for item in bundle.objects}
    for reference in _references(bundle):
        if reference not in present and reference not in EXTERNAL:
            yield f"{reference[0]} {reference[1]} does not exist"
    for item in (*bundle.of("GRPCRoute"), *bundle.of("HTTPRoute")):
        services = {entry["metadata"]["name"]: entry["spec"]["ports"] for entry in bundle.of("Service")}
        for backend in (backend for rule in item["spec"]["rules"] for backend in rule["backendRefs"]):
            if backend["port"] not in [port["port"] for port in services.get(backend["name"], ())]:
                yield f"{item['kind']} leads to {backend}, which is not there"
    volumes = {volume["name"] for volume in bundle.pod["volumes"]}
    for container in containers(bundle):
        for mount in container["volumeMounts"]:
            if mount["name"] not in volumes:
                yield f"container {container['name']} mounts {mount['name']}, which is not there"
            if container["name"] == "server" and mount["name"] != "tmp" and not mount.get("readOnly"):
                yield f"the server may write to {mount['mountPath']}"
    if len({item["mountPath"] for item in bundle.server["volumeMounts"]}) != len(bundle.server["volumeMounts"]):
        yield "two volumes are mounted at one path"
    for certificate in bundle.of("Certificate"):
        if ("Secret", certificate["spec"]["secretName"]) not in set(_references(bundle)):
            yield "nothing uses the certificate"


@policy
def the_entry_point_is_the_configurations_or_the_images(bundle: Bundle) -> Iterator[str]:
    command = bundle.server["command"]
    volume = next(item for item in bundle.pod["volumes"] if item["name"] == "config")["configMap"]
    if "embedded-server" in bundle.components:
        if command != ["sentence-serving", "container", "start"]:
            yield f"command {command} is not the entry point of the embedded server's image"
        return
    if command != ["/etc/serving/entrypoint"] or not volume["defaultMode"] & 0o111:
        yield f"command {command} is not an executable file of the configuration"
    if not config(bundle).get("entrypoint", "").startswith("#!/bin/sh\n"):
        yield "the configuration has no entry point"


@policy
def metrics_are_scraped_once_where_the_server_offers_them(bundle: Bundle) -> Iterator[str]:
    for monitor in bundle.of("ServiceMonitor"):
        selected = [
            item
            for item in bundle.of("Service")
            if matches(monitor["spec"]["selector"]["matchLabels"], labels_of(item))
        ]
        if len(selected) != 1:
            yield f"the service monitor selects {len(selected)} services: every pod would be counted as often"
        path = re.search(r'path: "([^"]+)"', config(bundle)["monitoring.config"])
        for endpoint in monitor["spec"]["endpoints"]:
            if path is None or endpoint["path"] != path[1]:
                yield f"metrics are read from {endpoint['path']}, offered at {path and path[1]}"
            if endpoint["port"] not in [port["name"] for item in selected for port in item["spec"]["ports"]]:
                yield f"metrics are read from port {endpoint['port']}"
        if any(labels_of(item).get(monitor["spec"]["jobLabel"]) != "sentence-serving" for item in selected):
            yield "rules look for job sentence-serving"


@policy
def nothing_administrative_leaves_the_cluster(bundle: Bundle) -> Iterator[str]:
    for service in bundle.of("Service"):
        if service["spec"].get("type", "ClusterIP") != "ClusterIP":
            yield f"service {service['metadata']['name']} is reachable from outside"
    for route in bundle.of("HTTPRoute"):
        for match in (match for rule in route["spec"]["rules"] for match in rule["matches"]):
            if not match["path"]["value"].startswith("/v1/models"):
                yield f"path {match['path']['value']} is routed"
    for route in bundle.of("GRPCRoute"):
        for match in (match["method"] for rule in route["spec"]["rules"] for match in rule["matches"]):
            if match["service"] == "tensorflow.serving.ModelService" and match.get("method") != "GetModelStatus":
                yield "anyone outside can replace the served models"
    hostnames = [
        name for kind in ("GRPCRoute", "HTTPRoute") for item in bundle.of(kind) for name in item["spec"]["hostnames"]
    ]
    if len(hostnames) != len(set(hostnames)):
        yield "HTTPRoute and GRPCRoute share a host name"


@policy
def tls_is_said_everywhere_or_nowhere(bundle: Bundle) -> Iterator[str]:
    on = "SERVING_TLS_DIR" in environment(bundle.server)
    protocol = next(
        port["appProtocol"] for item in bundle.of("Service") for port in item["spec"]["ports"] if port["name"] == "grpc"
    )
    if protocol != ("https" if on else "kubernetes.io/h2c"):
        yield f"the gRPC service says {protocol} while TLS is {'on' if on else 'off'}"
    if on != bool(bundle.of("Certificate")):
        yield "TLS without a certificate, or the reverse"
    if on and bundle.of("GRPCRoute") and not bundle.of("BackendTLSPolicy"):
        yield "the gateway speaks clear text to a TLS port"


def violations(bundle: Bundle, names: tuple[str, ...] = ()) -> list[str]:
    return [f"{name}: {text}" for name in names or tuple(POLICIES) for text in POLICIES[name](bundle)]


__all__: list[Any] = ["EXTERNAL", "POLICIES", "violations"]
