"""Every metric that the dashboard and the alerts ask for is one that an engine or the operator has, labels included."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml
from helm_runs import ROOT
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from octavo_engine.server.metrics import Metrics as EngineMetrics
from octavo_operator.api.names import NamespacedName
from octavo_operator.reconcile.metrics import Metrics as OperatorMetrics

MONITORING = ROOT / "config" / "monitoring"
OF_TARGETS = {"namespace", "pod", "job", "instance"}  # that Prometheus adds to each series
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ALERTS = [
    rule
    for g in yaml.safe_load((MONITORING / "prometheus-rule.yaml").read_text())["spec"]["groups"]
    for rule in g["rules"]
]


@pytest.fixture(scope="module")
def exposed() -> dict[str, set[str]]:
    """The series of an engine and of an operator with one service, each with its labels."""
    operator = OperatorMetrics()
    operator.record(NamespacedName("ns", "chat"), 1, 2, {"Ready": "False", "Progressing": "True", "Stalled": "False"})
    operator.watcher_up.labels("pods").set(1)
    operator.api_errors.labels("503").inc()
    operator.writes.labels("Deployment", "apply").inc()
    texts = (EngineMetrics("chat").render("")[0].decode(), generate_latest(operator.registry).decode())
    found: dict[str, set[str]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def walk(node: Any) -> Iterator[Any]:
    """A parsed expression and all that it is made of."""
    yield node
    for name in ("expr", "lhs", "rhs", "param", "vector_selector"):
        if (child := getattr(node, name, None)) is not None:
            yield from walk(child)
    for child in getattr(node, "args", None) or ():
        yield from walk(child)


def ask_for(expression: str) -> promql_parser.Expr:
    """The selectors of a query as Prometheus' own parser reads it, Grafana's variables filled in."""
    for name, value in (("$__rate_interval", "5m"), ("$namespace", ".*"), ("$model", ".*")):
        expression = expression.replace(name, value)
    return promql_parser.parse(expression)


def selectors(expression: str) -> list[promql_parser.VectorSelector]:
    return [node for node in walk(ask_for(expression)) if isinstance(node, promql_parser.VectorSelector)]


EXPRESSIONS = [
    *((f"{panel['title']}: {target['refId']}", target["expr"]) for panel in PANELS for target in panel["targets"]),
    *((rule["alert"], rule["expr"]) for rule in ALERTS),
]


@pytest.mark.parametrize(("what", "expression"), EXPRESSIONS, ids=[what for what, _ in EXPRESSIONS])
def test_what_is_asked_for_exists_with_the_labels_it_is_asked_by(exposed, what, expression):
    asked = selectors(expression)
    assert asked, "nothing is asked for"
    labels = set(OF_TARGETS)
    for selector in asked:
        assert selector.name in exposed, f"no engine and no operator has {selector.name}"
        labels |= exposed[selector.name]
        for matcher in selector.matchers.matchers:
            assert matcher.name in exposed[selector.name] | OF_TARGETS, f"{selector.name} has no label {matcher.name}"
    for node in walk(ask_for(expression)):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            assert set(node.modifier.labels) <= labels


def test_a_counter_is_asked_for_its_rate_alone():
    """A counter's bare value says when the process started, and nothing else."""
    for what, expression in EXPRESSIONS:
        ranged = [
            node.vector_selector.name
            for node in walk(ask_for(expression))
            if isinstance(node, promql_parser.MatrixSelector)
        ]
        for selector in selectors(expression):
            if re.search(r"(_total|_sum|_count|_bucket)$", selector.name):
                assert selector.name in ranged, f"{what}: {selector.name}"


def test_no_panel_lies_on_another_and_each_says_what_it_shows():
    taken: set[tuple[int, int]] = set()
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert all(panel["description"] for panel in PANELS)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_states_the_fault_and_the_remedy(rule):
    """The expression keeps each label that the alert's text names."""
    annotations = rule["annotations"]
    assert {"summary", "description", "runbook"} == set(annotations)
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["for"]
    node = ask_for(rule["expr"])
    while isinstance(node, (promql_parser.BinaryExpr, promql_parser.ParenExpr)):
        node = node.lhs if isinstance(node, promql_parser.BinaryExpr) else node.expr
    kept = set(node.modifier.labels) if isinstance(node, promql_parser.AggregateExpr) and node.modifier else set()
    named = set(re.findall(r"\$labels\.(\w+)", json.dumps(annotations)))
    assert named <= kept
