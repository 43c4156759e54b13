"""Metrics, alerts and the dashboard, against what a real server exposes."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from deployment import BASE, adapter_rules, base_manifests
from lostgan_serve.triton.server import Endpoints, running_server

GPU_METRICS = {"nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes"}
"""Of Triton's docs/user_guide/metrics.md; a server without a GPU does not show them."""


def alerts() -> list[dict[str, Any]]:
    (group,) = base_manifests()["PrometheusRule"]["spec"]["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def expressions() -> dict[str, str]:
    """Every PromQL expression by where it stands, the placeholders of Grafana and prometheus-adapter filled in."""
    found = {alert["alert"]: alert["expr"] for alert in alerts()}
    for rule in adapter_rules():
        found["adapter's series"] = rule["seriesQuery"]
        query = rule["metricsQuery"].replace("<<.LabelMatchers>>", 'namespace="n",pod=~"p"')
        found["adapter's metric"] = query.replace("<<.GroupBy>>", "pod")
    dashboard = json.loads((BASE / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            found[f"{panel['title']} {target['refId']}"] = target["expr"].replace("$__rate_interval", "5m")
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            label_values = re.fullmatch(r"label_values\((.+), \w+\)", variable["query"]["query"])
            assert label_values
            found[f"variable {variable['name']}"] = label_values[1]
    return found


def selectors(expression: str) -> list[promql_parser.VectorSelector]:
    """Raises ValueError where it is no PromQL."""
    found: list[promql_parser.VectorSelector] = []

    def visit(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


@pytest.fixture(scope="module")
def server(tiny_repository: Path) -> Iterator[Endpoints]:
    with running_server(tiny_repository) as endpoints:
        yield endpoints


def test_expressions_ask_for_what_a_server_exposes(server: Endpoints) -> None:
    text = urllib.request.urlopen(f"http://{server.metrics}/metrics").read().decode()
    series = re.findall(r"^(nv_\w+)(?:\{(.*)\})? ", text, re.M)
    labels: dict[str, dict[str, set[str]]] = {name: {} for name in GPU_METRICS}
    for name, pairs in series:
        for label, value in re.findall(r'(\w+)="([^"]*)"', pairs):
            labels.setdefault(name, {}).setdefault(label, set()).add(value)
    used: set[str] = set()
    for where, expression in expressions().items():
        found = selectors(expression)
        assert found, where
        for selector in found:
            assert selector.name in labels, (where, selector.name)
            used.add(str(selector.name))
            for matcher in selector.matchers.matchers:
                if matcher.name in ("namespace", "pod"):  # the ServiceMonitor adds these
                    continue
                values = labels[str(selector.name)][matcher.name]
                if "$" not in matcher.value:
                    assert any(re.fullmatch(matcher.value, value) for value in values), (where, matcher)
    assert {"nv_inference_queue_duration_us", "nv_inference_request_success"} <= used


def test_alerts() -> None:
    names = [alert["alert"] for alert in alerts()]
    assert len(set(names)) == len(names)
    for alert in alerts():
        assert alert.keys() == {"alert", "expr", "for", "labels", "annotations"}
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert re.fullmatch(r"\d+m", alert["for"])
        # a summary may name only labels that the expression keeps
        wanted = set(re.findall(r"\$labels\.(\w+)", alert["annotations"]["summary"]))
        kept = re.search(r"by \(([\w, ]+)\)", alert["expr"])
        assert wanted <= (set(kept[1].split(", ")) if kept else set())


def test_dashboard() -> None:
    dashboard = json.loads((BASE / "dashboard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) - {"__rate_interval"} <= variables
