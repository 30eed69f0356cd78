"""What must hold for the load tests of k8s/jobs. A policy takes a job's bundle and that of the servers it asks, and
yields what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from deploy.bundles import Bundle, Object
from deploy.policies import POLICIES, containers, matches

JobPolicy = Callable[[Bundle, Bundle], Iterator[str]]
JOB_POLICIES: dict[str, JobPolicy] = {}

IMAGE = "sentence-serving-loadtest"  # the name under which READMEs tell people to set theirs
_LOCUST_PORT = 5557


def job_policy(function: JobPolicy) -> JobPolicy:
    JOB_POLICIES[function.__name__] = function
    return function


def name_of(item: Object) -> str:
    name: str = item["metadata"]["name"]
    return name


def workloads(job: Bundle) -> list[Object]:
    return [*job.of("Deployment"), *job.of("Job")]


def pod_labels(workload: Object) -> dict[str, str]:
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


def alone(job: Bundle, workload: Object) -> Bundle:
    """A bundle of one workload, as the policies of servers take it."""
    return Bundle(name_of(workload), (), ({**workload, "kind": "Deployment"}, *job.of("ServiceAccount")))


def every_container(job: Bundle) -> Iterator[tuple[Object, Object]]:
    for workload in workloads(job):
        for container in containers(alone(job, workload)):
            yield workload, container


def option(container: Object, name: str) -> str | None:
    """The value of ``--name=value`` among a container's arguments; ``""`` for ``--name`` alone."""
    for argument in container["args"]:
        key, _, value = argument.partition("=")
        if key == f"--{name}":
            return str(value)
    return None


def selected(job: Bundle, selector: dict[str, str]) -> list[Object]:
    return [item for item in workloads(job) if selector and matches(selector, pod_labels(item))]


def ports(workload: Object) -> dict[str, int]:
    first = workload["spec"]["template"]["spec"]["containers"][0]
    return {port["name"]: port["containerPort"] for port in first.get("ports", ())}


@job_policy
def pods_meet_the_standard_of_the_servers(job: Bundle, servers: Bundle) -> Iterator[str]:
    for workload in workloads(job):
        for name in ("pods_meet_the_restricted_security_standard", "no_pod_holds_a_token_of_the_api"):
            for text in POLICIES[name](alone(job, workload)):
                yield f"{name_of(workload)}: {text}"


@job_policy
def resources_are_bounded(job: Bundle, servers: Bundle) -> Iterator[str]:
    for workload, container in every_container(job):
        requests, limits = (container.get("resources", {}).get(kind, {}) for kind in ("requests", "limits"))
        if {"cpu", "memory", "ephemeral-storage"} - (set(requests) & set(limits)):
            yield f"{name_of(workload)}: no request or no limit for CPU, memory or storage"
        elif requests["cpu"] != limits["cpu"]:
            yield f"{name_of(workload)}: a generator that may get less CPU than it uses measures itself"


@job_policy
def the_image_can_be_set_by_its_name(job: Bundle, servers: Bundle) -> Iterator[str]:
    for workload, container in every_container(job):
        if container["image"] != IMAGE:
            yield f"{name_of(workload)}: image {container['image']} is not {IMAGE}, which `images:` would replace"
        if container["command"] != ["sentence-serving", "loadtest"]:
            yield f"{name_of(workload)}: command {container['command']} is not the package's"


@job_policy
def a_failed_test_is_not_repeated(job: Bundle, servers: Bundle) -> Iterator[str]:
    for item in job.of("Job"):
        if item["spec"]["backoffLimit"] or item["spec"]["template"]["spec"]["restartPolicy"] != "Never":
            yield f"{name_of(item)}: a failed load test would run again"


@job_policy
def the_servers_are_there_and_let_the_pods_in(job: Bundle, servers: Bundle) -> Iterator[str]:
    rules = servers.one("NetworkPolicy")["spec"]["ingress"]
    peers = [peer["podSelector"]["matchLabels"] for rule in rules for peer in rule["from"] if "podSelector" in peer]
    for workload in workloads(job):
        if not any(matches(peer, pod_labels(workload)) for peer in peers):
            yield f"{name_of(workload)}: the servers' network policy lets none of its pods in"
    known = {(name_of(item), port["port"]) for item in servers.of("Service") for port in item["spec"]["ports"]}
    asked = 0
    for workload, container in every_container(job):
        for argument in container["args"]:
            url = argument.removeprefix("--host=")
            if "://" not in url or url.startswith("-"):
                continue
            asked += 1
            address = urlsplit(url)
            if (address.hostname, address.port) not in known:
                yield f"{name_of(workload)}: {url} is no service of the servers"
    if not asked:
        yield "nobody is asked"


@job_policy
def selectors_choose_one_workload_by_its_named_ports(job: Bundle, servers: Bundle) -> Iterator[str]:
    for item in job.of("Deployment"):
        if selected(job, item["spec"]["selector"]["matchLabels"]) != [item]:
            yield f"deployment {name_of(item)} does not select its own pods alone"
    for item in job.of("Service"):
        found = selected(job, item["spec"]["selector"])
        if len(found) != 1:
            yield f"service {name_of(item)} selects {len(found)} workloads"
        elif any(ports(found[0]).get(port["targetPort"]) != port["port"] for port in item["spec"]["ports"]):
            yield f"service {name_of(item)} leads to ports that {name_of(found[0])} does not have by name"


@job_policy
def workers_and_they_alone_reach_the_master(job: Bundle, servers: Bundle) -> Iterator[str]:
    roles = {
        role: [item for item, container in every_container(job) if option(container, role) is not None]
        for role in ("master", "worker")
    }
    if not any(roles.values()):
        return
    if any(len(found) != 1 for found in roles.values()):
        yield f"there are {len(roles['master'])} masters and {len(roles['worker'])} kinds of workers"
        return
    (master,), (worker,) = roles["master"], roles["worker"]
    if master["spec"]["replicas"] != 1:
        yield "there is more than one master, or none"
    leading = {name_of(item): item for item in job.of("Service") if master in selected(job, item["spec"]["selector"])}
    host = option(containers(alone(job, worker))[0], "master-host")
    if host not in leading:
        yield f"--master-host is {host}, which is no service of the master"
    elif [port["port"] for port in leading[host]["spec"]["ports"]] != [_LOCUST_PORT]:
        yield f"service {host} does not carry port {_LOCUST_PORT}, and nothing else"
    guards = [
        item["spec"]
        for item in job.of("NetworkPolicy")
        if selected(job, item["spec"]["podSelector"].get("matchLabels", {})) == [master]
    ]
    if len(guards) != 1 or "Ingress" not in guards[0]["policyTypes"]:
        yield f"{len(guards)} network policies guard the master, and it alone"
        return
    for rule in guards[0]["ingress"]:
        peers = [peer.get("podSelector", {}).get("matchLabels", {}) for peer in rule.get("from", ())]
        if [selected(job, peer) for peer in peers] != [[worker]]:
            yield "the master's network policy lets in others than the workers"
        if rule.get("ports") != [{"protocol": "TCP", "port": "workers"}] or "workers" not in ports(master):
            yield "the master's network policy opens other ports than the workers'"


def job_violations(job: Bundle, servers: Bundle) -> list[str]:
    return [f"{name}: {text}" for name, function in JOB_POLICIES.items() for text in function(job, servers)]
