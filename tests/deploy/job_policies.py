"""What must hold for k8s/jobs: load tests and bulk embedding. A policy takes a job's bundle and that of the servers,
and yields what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import zip_longest
from urllib.parse import urlsplit

from deploy.bundles import ROOT, Bundle, Object
from deploy.policies import POLICIES, config, containers, matches

JobPolicy = Callable[[Bundle, Bundle], Iterator[str]]
JOB_POLICIES: dict[str, JobPolicy] = {}

# The image names under which READMEs tell people to set theirs, and the command in each.
IMAGES = {
    "sentence-serving-loadtest": ["sentence-serving", "loadtest"],
    "sentence-serving-embed": ["sentence-serving", "embed"],
    "sentence-serving-embed-ray": ["sentence-serving", "embed"],
}
_LOCUST_PORT = 5557
_OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}
# of `sentence-serving embed`: rejected rows or an unusable argument, source, artifact, extra
_FINAL_EXIT_CODES = {2, 3, 4, 6}


def job_policy(function: JobPolicy) -> JobPolicy:
    JOB_POLICIES[function.__name__] = function
    return function


def name_of(item: Object) -> str:
    name: str = item["metadata"]["name"]
    return name


def workloads(job: Bundle) -> list[Object]:
    """What makes pods; a RayJob's groups each as one, with the name of its container."""
    return [*job.of("Deployment"), *job.of("Job"), *(group for item in job.of("RayJob") for group in ray_groups(item))]


def ray_groups(ray_job: Object) -> Iterator[Object]:
    """Head and workers in the shape of a Deployment. Their containers run what KubeRay writes, the head the entrypoint
    too."""
    cluster = ray_job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        name = group["template"]["spec"]["containers"][0]["name"]
        yield {"kind": "Deployment", "metadata": {"name": name}, "spec": {"template": group["template"]}}


def words(container: Object) -> list[str]:
    """Command and arguments."""
    return [*container.get("command", ()), *container.get("args", ())]


def commands(job: Bundle) -> Iterator[tuple[str, list[str]]]:
    """Every command of the package that is run, by the name of what runs it."""
    for workload, container in every_container(job):
        if words(container):
            yield name_of(workload), words(container)
    for item in job.of("RayJob"):
        yield name_of(item), item["spec"]["entrypoint"].split()


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


def option(words: list[str], name: str) -> str | None:
    """The value of ``--name=value`` or ``--name value`` in a command; ``""`` for ``--name`` alone."""
    for word, after in zip_longest(words, words[1:], fillvalue=""):
        key, equals, value = word.partition("=")
        if key == f"--{name}":
            return value if equals else "" if after.startswith("--") else after
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
            yield f"{name_of(workload)}: it may get less CPU than it uses: a generator would measure itself"


@job_policy
def the_image_can_be_set_by_its_name(job: Bundle, servers: Bundle) -> Iterator[str]:
    for workload, container in every_container(job):
        if container["image"] not in IMAGES:
            yield f"{name_of(workload)}: image {container['image']} is not one that `images:` would replace"
    images = {container["image"] for _, container in every_container(job)}
    for name, command in commands(job):
        if images <= IMAGES.keys() and command[:2] not in map(IMAGES.__getitem__, images):
            yield f"{name}: command {' '.join(command[:2])} is not the package's"


@job_policy
def what_would_end_the_same_way_is_not_repeated(job: Bundle, servers: Bundle) -> Iterator[str]:
    for item in job.of("Job"):
        spec = item["spec"]
        if spec["template"]["spec"]["restartPolicy"] != "Never":
            yield f"{name_of(item)}: a container would be repeated in its pod, whatever it ended with"
        if spec.get("completionMode") == "Indexed":
            yield from (f"{name_of(item)}: {text}" for text in _repeats(spec))
        elif spec["backoffLimit"]:
            yield f"{name_of(item)}: a failed load test would run again"
    for item in job.of("RayJob"):
        if item["spec"].get("backoffLimit") or item["spec"].get("submissionMode") != "HTTPMode":
            yield f"{name_of(item)}: a failed job would be submitted again"


def _repeats(spec: Object) -> Iterator[str]:
    """What is wrong with the repetitions of an indexed Job."""
    if not 1 <= spec.get("backoffLimitPerIndex", 0) <= 10 or "backoffLimit" in spec:
        yield "shards are not repeated a few times, each by itself"
    rules = spec.get("podFailurePolicy", {}).get("rules", ())
    names = [container["name"] for container in spec["template"]["spec"]["containers"]]
    failed: set[int] = set()
    for rule in rules:
        codes = rule.get("onExitCodes")
        if codes and rule["action"] == "FailIndex" and codes["operator"] == "In" and codes["containerName"] in names:
            failed |= set(codes["values"])
    if failed != _FINAL_EXIT_CODES:
        yield f"exit codes {sorted(failed)} end a shard, not {sorted(_FINAL_EXIT_CODES)}"
    drained = {"type": "DisruptionTarget", "status": "True"}
    if not any(rule["action"] == "Ignore" and drained in rule.get("onPodConditions", ()) for rule in rules):
        yield "a drained node counts as a failure"
    if spec.get("podReplacementPolicy") != "Failed":
        yield "two pods of a shard may work at a time"


@job_policy
def bulk_embedding_continues_where_it_was(job: Bundle, servers: Bundle) -> Iterator[str]:
    for name, command in commands(job):
        if command[1] == "embed" and option(command, "resume") is None:
            yield f"{name}: without --resume a repetition, or a shard that starts late, is refused"


@job_policy
def every_part_has_its_shard(job: Bundle, servers: Bundle) -> Iterator[str]:
    for item in job.of("Job"):
        shards = option(words(item["spec"]["template"]["spec"]["containers"][0]), "shard")
        spec = item["spec"]
        if (shards is not None) != (spec.get("completionMode") == "Indexed"):
            yield f"{name_of(item)}: --shard and Indexed do not go together"
        elif shards is not None and shards != f"/{spec['completions']}":
            yield f"{name_of(item)}: --shard={shards} for {spec['completions']} pods"


@job_policy
def claims_are_named_in_the_readme(job: Bundle, servers: Bundle) -> Iterator[str]:
    readme = (ROOT / job.name / "README.md").read_text()
    for workload in workloads(job):
        volumes = {volume["name"]: volume for volume in workload["spec"]["template"]["spec"]["volumes"]}
        for container in workload["spec"]["template"]["spec"]["containers"]:
            for mount in container["volumeMounts"]:
                claim = volumes.get(mount["name"], {}).get("persistentVolumeClaim", {}).get("claimName")
                if mount["name"] not in volumes:
                    yield f"{name_of(workload)}: mounts {mount['name']}, which is not there"
                elif claim and f"`{claim}`" not in readme:
                    yield f"{name_of(workload)}: nobody is told to make the claim {claim}"


@job_policy
def workers_that_load_the_model_are_sized_as_its_servers(job: Bundle, servers: Bundle) -> Iterator[str]:
    model = config(servers, "sentence-serving-model")
    for item in job.of("RayJob"):
        command = item["spec"]["entrypoint"].split()
        place = option(command, "artifact") or ""
        if not place.startswith(f"/models/{model['MODEL_NAME']}/"):
            yield f"{name_of(item)}: --artifact {place} is not of the model {model['MODEL_NAME']}"
        if option(command, "cpus-per-worker") != model["CPUS"]:
            yield f"{name_of(item)}: an actor does not have the CPUs of its pod"
        head, *workers = ray_groups(item)
        for worker in workers:
            resources = worker["spec"]["template"]["spec"]["containers"][0]["resources"]
            for kind in ("requests", "limits"):
                found = {name: resources[kind][name] for name in ("cpu", "memory")}
                if found != {"cpu": model["CPUS"], "memory": model["MEMORY"]}:
                    yield f"{name_of(worker)}: {kind} {found}, not those of serving/model.env"
        for group in (head, *workers):
            spec = group["spec"]["template"]["spec"]
            if {"name": "models", "mountPath": "/models", "readOnly": True} not in spec["containers"][0][
                "volumeMounts"
            ]:
                yield f"{name_of(group)}: the models are not mounted, or not read-only"
        if item["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
            yield f"{name_of(head)}: actors may work beside what leads them"


@job_policy
def the_cluster_and_its_operator_alone_reach_ray(job: Bundle, servers: Bundle) -> Iterator[str]:
    for item in job.of("RayJob"):
        groups = list(ray_groups(item))
        if item["spec"].get("shutdownAfterJobFinishes") is not True:
            yield f"{name_of(item)}: its cluster stays when it is done"
        guards = [
            guard["spec"]
            for guard in job.of("NetworkPolicy")
            if selected(job, guard["spec"]["podSelector"].get("matchLabels", {})) == groups
        ]
        if len(guards) != 1 or "Ingress" not in guards[0]["policyTypes"]:
            yield f"{len(guards)} network policies guard head and workers"
            continue
        own, operator = {"podSelector": guards[0]["podSelector"]}, {"matchLabels": _OPERATOR}
        allowed = [
            {"from": [own]},
            {
                "from": [{"namespaceSelector": {}, "podSelector": operator}],
                "ports": [{"protocol": "TCP", "port": "dashboard"}],
            },
        ]
        if guards[0]["ingress"] != allowed:
            yield "others than the cluster's pods and the operator are let in, or to other ports"
        if ports(groups[0]).get("dashboard") != 8265:
            yield f"{name_of(groups[0])} has no port called dashboard"


@job_policy
def the_servers_are_there_and_let_the_pods_in(job: Bundle, servers: Bundle) -> Iterator[str]:
    rules = servers.one("NetworkPolicy")["spec"]["ingress"]
    peers = [peer["podSelector"]["matchLabels"] for rule in rules for peer in rule["from"] if "podSelector" in peer]
    for workload in workloads(job):
        if not any(matches(peer, pod_labels(workload)) for peer in peers):
            yield f"{name_of(workload)}: the servers' network policy lets none of its pods in"
    known = {(name_of(item), port["port"]) for item in servers.of("Service") for port in item["spec"]["ports"]}
    asked = 0
    for name, command in commands(job):
        for argument in command:
            url = argument.removeprefix("--host=").removeprefix("--url=")
            if "://" not in url or url.startswith("-"):
                continue
            asked += 1
            address = urlsplit(url)
            if (address.hostname, address.port) not in known:
                yield f"{name}: {url} is no service of the servers"
    if not asked and not any(option(command, "artifact") for _, command in commands(job)):
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
        role: [item for item, container in every_container(job) if option(words(container), role) is not None]
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
    host = option(words(containers(alone(job, worker))[0]), "master-host")
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
