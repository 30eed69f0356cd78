"""Alerts, records, dashboard and autoscalers ask only for metrics and labels that the server really exports."""

from __future__ import annotations

import json
import re

import promql_parser
import pytest
import yaml
from deploy.bundles import ROOT
from deploy.promql import EXPRESSIONS, MONITORING, RECORDS, RULES, known_labels, parse, selectors, walk


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
