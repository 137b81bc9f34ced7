"""The samples for other adapters give the figures that Octavo's own API serves, by the same names."""

from __future__ import annotations

import re

import promql_parser
import pytest
import yaml
from octavo_testing.operator_runs import ROOT

from octavo_operator.metrics_api.catalog import COUNTERS, GAUGES, METRICS
from octavo_operator.runtimes import RUNTIMES
from octavo_operator.runtimes.runtime import adapted

SAMPLES = ROOT / "config/autoscaling"
RULES = yaml.safe_load((SAMPLES / "prometheus-adapter.yaml").read_text())["rules"]["custom"]


def selector(query):
    """The name that a query chooses series by, a regular expression or plain."""
    return re.search(r'__name__=~?"([^"]*)"', query)[1]


def test_prometheus_adapter_serves_every_figure_by_vllms_name():
    """An autoscaler that reads Octavo's API reads the adapter's unchanged."""
    served = set()
    for rule in RULES:
        for metric in GAUGES | COUNTERS:
            if re.fullmatch(selector(rule["seriesQuery"]), metric):
                name = re.sub("\\$([0-9])", "\\\\\\1", rule["name"]["as"])
                served.add(re.sub(rule["name"]["matches"], name, metric))
    assert served == {name for name in METRICS if name.startswith("vllm_")}
    for runtime in RUNTIMES.values():
        scaled_on = (runtime.metrics.waiting, runtime.metrics.running, runtime.metrics.kv_usage)
        assert {adapted(names[0]) for names in scaled_on} <= served


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["name"]["as"])
def test_its_queries_are_promql(rule):
    """The queries are parsed as the adapter fills them in."""
    promql_parser.parse(rule["seriesQuery"])
    query = rule["metricsQuery"].replace("<<.Series>>", "vllm:x").replace("<<.GroupBy>>", "pod")
    promql_parser.parse(query.replace("<<.LabelMatchers>>", 'namespace="n",pod=~"a|b"'))


def test_keda_reads_engines_metrics_and_takes_none_for_missing():
    """What is missing fails the trigger, and a failing trigger leaves the replicas as they are."""
    [sample] = yaml.safe_load_all((SAMPLES / "keda.yaml").read_text())
    for trigger in sample["spec"]["triggers"]:
        parsed = promql_parser.parse(trigger["metadata"]["query"])
        assert parsed.expr.name in GAUGES
        assert trigger["metadata"]["ignoreNullValues"] == "false"
        assert trigger["metricType"] == "AverageValue"
    assert sample["spec"]["fallback"]["behavior"] == "currentReplicas"
