"""Metrics, alerts and the dashboard, against what a real server exposes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from deployment import BASE, adapter_rules, base_manifests
from lostgan_serve.triton.server import Endpoints, running_server

OWN_METRICS = {"lostgan_serve_ready", "lostgan_serve_restarts_total", "lostgan_serve_refused_total"}
"""The gateway's."""

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
    with suppress(urllib.error.HTTPError):
        urllib.request.urlopen(f"http://{server.http}/nowhere")  # so that something was refused
    text = urllib.request.urlopen(f"http://{server.metrics}/metrics").read().decode()
    series = re.findall(r"^((?:nv|lostgan)_\w+)(?:\{(.*)\})? ", text, re.M)
    assert {name for name, _ in series} >= OWN_METRICS
    labels: dict[str, dict[str, set[str]]] = {name: {} for name in GPU_METRICS | OWN_METRICS}
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


MODEL = 'namespace="n", pod="p", model="lostgan_128"'
POD = 'namespace="n", pod="p"'

WELL = {
    f"nv_inference_request_success{{{MODEL}}}": "0+600x60",
    f"nv_inference_exec_count{{{MODEL}}}": "0+100x60",
    f"nv_inference_pending_request_count{{{MODEL}}}": "1x60",
    f"nv_inference_queue_duration_us{{{MODEL}}}": "0+1000000x60",
    f'nv_inference_request_failure{{{MODEL}, reason="BACKEND"}}': "0x60",
    f'nv_inference_request_failure{{{MODEL}, reason="REJECTED"}}': "0x60",
    f"lostgan_serve_ready{{{POD}}}": "1x60",
    f"lostgan_serve_restarts_total{{{POD}}}": "0x60",
    f'lostgan_serve_refused_total{{{POD}, reason="queue full"}}': "0x60",
}
"""An hour of a server that is well: series and their values, a minute apart, in promtool's notation."""

ILL = {
    "LostganServeDown": {f"nv_inference_request_success{{{MODEL}}}": "_x60"},
    "LostganServeFailing": {f'nv_inference_request_failure{{{MODEL}, reason="BACKEND"}}': "0+30x60"},
    "LostganServeRejecting": {f'nv_inference_request_failure{{{MODEL}, reason="REJECTED"}}': "0+1x60"},
    "LostganServeSlowQueue": {f"nv_inference_queue_duration_us{{{MODEL}}}": "0+600000000x60"},
    "LostganServeStuck": {f"nv_inference_exec_count{{{MODEL}}}": "7x60"},
    "LostganServeUnready": {f"lostgan_serve_ready{{{POD}}}": "0x60"},
    "LostganServeRestarting": {f"lostgan_serve_restarts_total{{{POD}}}": "0x50 1x10"},
    "LostganServeRefusing": {f'lostgan_serve_refused_total{{{POD}, reason="queue full"}}': "0+120x60"},
}
"""The series that make each alert fire."""


@pytest.mark.parametrize("ill", [None, *ILL])
def test_an_alert_fires_when_it_should_and_no_other_does(ill: str | None, tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool, of Prometheus, tries the rules")
    rules = base_manifests()["PrometheusRule"]["spec"]
    (tmp_path / "rules.json").write_text(json.dumps(rules), encoding="utf-8")  # JSON is YAML
    assert {rule["alert"] for rule in rules["groups"][0]["rules"]} == ILL.keys()
    series = WELL | (ILL[ill] if ill else {})
    expected = [
        {"eval_time": "55m", "alertname": rule["alert"], "exp_alerts": _fired(rule) if rule["alert"] == ill else []}
        for rule in rules["groups"][0]["rules"]
    ]
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    tests = [{"interval": "1m", "input_series": inputs, "alert_rule_test": expected}]
    case = {"rule_files": ["rules.json"], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "case.json").write_text(json.dumps(case), encoding="utf-8")
    done = subprocess.run([promtool, "test", "rules", "case.json"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _fired(rule: dict[str, Any]) -> list[dict[str, Any]]:
    """The alert with the labels that its expression keeps, and its summary with them."""
    kept = re.search(r"by \(([\w, ]+)\)", rule["expr"])
    values = {"namespace": "n", "pod": "p", "model": "lostgan_128", "reason": "queue full"}
    labels = {name: values[name] for name in kept[1].split(", ")} if kept else {}
    summary = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels[found[1]], rule["annotations"]["summary"])
    return [{"exp_labels": rule["labels"] | labels, "exp_annotations": {"summary": summary}}]


def test_dashboard() -> None:
    dashboard = json.loads((BASE / "dashboard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) - {"__rate_interval"} <= variables
