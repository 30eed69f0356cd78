"""Alerts, records, dashboard and autoscalers ask only for metrics and labels that the server really exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from deploy_bundles import ROOT

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


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_expression_is_promql_over_exported_metrics_and_labels(where: str) -> None:
    expression = EXPRESSIONS[where]
    chosen = selectors(expression)
    assert chosen
    allowed: set[str] = set()
    for selector in chosen:
        labels = known_labels(selector.name)
        matched = {matcher.name for matcher in selector.matchers.matchers}
        assert matched <= labels, f"{selector.name} has no label {matched - labels}"
        if selector.name not in RECORDS:
            assert "job" in matched, f"{selector.name} would be taken from every job of the cluster"
        allowed |= labels
    for node in walk(parse(expression)):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            assert set(node.modifier.labels) <= allowed, f"grouped by {set(node.modifier.labels) - allowed}"


@pytest.mark.parametrize(
    "name", [":tensorflow:serving:request_counts", ":tensorflow:serving:request_latency", "kube_pod_info"]
)
def test_an_unknown_series_is_noticed(name: str) -> None:
    with pytest.raises(AssertionError, match="no server exports"):
        known_labels(name)


def test_every_alert_says_what_to_do() -> None:
    alerts = [rule for rule in RULES if "alert" in rule]
    assert len(alerts) >= 7
    for rule in alerts:
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}, rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")
        used = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["description"]))
        assert used <= {label for item in selectors(rule["expr"]) for label in known_labels(item.name)}, rule["alert"]


def test_the_prometheus_adapter_offers_the_metric_that_the_autoscaler_asks_for() -> None:
    folder = ROOT / "k8s/components/hpa-queue-latency"
    rule = yaml.safe_load((folder / "prometheus-adapter-values.yaml").read_text())["rules"]["custom"][0]
    (series,) = selectors(rule["seriesQuery"])
    assert series.name in RECORDS
    assert {"namespace", "pod"} <= RECORDS[series.name]
    assert re.search(rule["name"]["matches"], series.name)
    query = rule["metricsQuery"].replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", 'namespace="x"')
    assert [item.name for item in selectors(query)] == [series.name]
    metrics = yaml.safe_load((folder / "hpa.yaml").read_text())["spec"]["metrics"]
    assert [item["pods"]["metric"]["name"] for item in metrics if item["type"] == "Pods"] == [rule["name"]["as"]]


def test_the_dashboards_panels_do_not_overlap_and_use_its_data_source() -> None:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    cells: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells, panel["title"]
        assert max(x for x, _ in own) < 24
        cells |= own
        assert panel["datasource"]["uid"] == "${datasource}"
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
