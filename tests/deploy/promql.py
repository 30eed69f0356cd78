"""Every PromQL expression in k8s/; what a server exports, names from a real server's page, labels from its source."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import yaml
from deploy.bundles import ROOT

MONITORING = ROOT / "k8s/components/monitoring"
TYPES = dict(
    line.split() for line in (Path(__file__).parent / "tensorflow_serving_metrics.txt").read_text().splitlines()[1:]
)
# What Prometheus and its operator add to each sample of this job.
TARGET_LABELS = {"job", "namespace", "pod", "service", "instance", "endpoint", "container"}
# The server's own labels, as tensorflow/serving/servables/tensorflow/util.cc, batching/batching_session.cc and
# tensorflow/cc/saved_model/loader.cc declare them.
LABELS = {
    ":tensorflow:serving:request_count": {"model_name", "status"},
    ":tensorflow:serving:request_latency": {"model_name", "API", "entrypoint"},
    ":tensorflow:serving:runtime_latency": {"model_name", "API", "runtime"},
    ":tensorflow:serving:batching_session:queuing_latency": {"thread_pool_name"},
    ":tensorflow:serving:batching_session:wrapped_run_count": set(),
    ":tensorflow:cc:saved_model:load_attempt_count": {"model_path", "status"},
    ":tensorflow:cc:saved_model:load_latency": {"model_path"},
}
RULES = [
    rule
    for group in yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())["spec"]["groups"]
    for rule in group["rules"]
]


def walk(node: Any) -> Iterator[Any]:
    yield node
    for name in ("lhs", "rhs", "expr", "vector_selector"):
        if hasattr(node, name):
            yield from walk(getattr(node, name))
    for argument in getattr(node, "args", ()):
        yield from walk(argument)


def parse(expression: str) -> Any:
    return promql_parser.parse(re.sub(r"\$__rate_interval", "5m", expression))


def selectors(expression: str) -> list[Any]:
    return [node for node in walk(parse(expression)) if isinstance(node, promql_parser.VectorSelector)]


def labels_of_record(expression: str) -> set[str]:
    """The labels that an aggregation at the top of a record leaves."""
    found = [node for node in walk(parse(expression)) if isinstance(node, promql_parser.AggregateExpr)]
    return {label for node in found for label in node.modifier.labels} - {"le"}


RECORDS = {rule["record"]: labels_of_record(rule["expr"]) for rule in RULES if "record" in rule}


def known_labels(name: str) -> set[str]:
    """The labels of a series. Raises ``AssertionError`` for a series that nothing exports."""
    if name == "up":
        return TARGET_LABELS
    if name in RECORDS:
        return RECORDS[name]
    for family, kind in TYPES.items():
        series = {f"{family}{end}" for end in ("_bucket", "_sum", "_count")} if kind == "histogram" else {family}
        if name in series:
            return TARGET_LABELS | LABELS[family] | ({"le"} if name.endswith("_bucket") else set())
    raise AssertionError(f"no server exports {name}")


def expressions() -> dict[str, str]:
    found = {f"rule {rule.get('record', rule.get('alert'))}": rule["expr"] for rule in RULES}
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            found[f"panel {panel['title']} {target['refId']}"] = target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert match
            found[f"variable {variable['name']}"] = f"sum by ({match[2]}) ({match[1]})"
    scaled = yaml.safe_load((ROOT / "k8s/components/keda/scaledobject.yaml").read_text())
    found["keda"] = next(
        item["metadata"]["query"] for item in scaled["spec"]["triggers"] if item["type"] == "prometheus"
    )
    return found


EXPRESSIONS = expressions()
