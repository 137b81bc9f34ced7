"""A real Prometheus reads what engines and operators say, and what is shipped to look at it shows something."""

from __future__ import annotations

import json
import math
import time

import pytest
import yaml
from octavo_testing.kubernetes_binaries import build

from e2e import prometheus
from e2e.world import ROOT, free_port

NAME = "watched"
TUTORIAL_QUERIES = (
    "rate(vllm:avg_generation_throughput_toks_per_s[5m])",
    "vllm:num_requests_waiting",
    "vllm:gpu_cache_usage_perc",
    "histogram_quantile(0.99, rate(vllm:time_to_first_token_seconds_bucket[5m]))",
)
VARIABLES = {"$namespace": ".*", "$model": ".*", "$__rate_interval": "1m"}


def panels():
    """Each query of the dashboard, by its panel's title."""

    def walk(items):
        for panel in items:
            for target in panel.get("targets", ()):
                yield panel["title"], target["expr"]
            yield from walk(panel.get("panels", ()))

    return list(walk(json.loads((ROOT / "config/monitoring/dashboard.json").read_text())["panels"]))


def autoscalers(namespace, watching):
    """Each query that KEDA and prometheus-adapter send, by the samples, about this service."""
    folder = ROOT / "config/autoscaling"
    for trigger in yaml.safe_load((folder / "keda.yaml").read_text())["spec"]["triggers"]:
        yield "KEDA", trigger["metadata"]["query"].replace("llm-serving", namespace).replace("mistral-", f"{NAME}-")
    for rule in yaml.safe_load((folder / "prometheus-adapter.yaml").read_text())["rules"]["custom"]:
        series = {each["metric"]["__name__"] for each in watching.query(rule["seriesQuery"])}
        assert series, rule["seriesQuery"]
        filled = {"<<.LabelMatchers>>": f'namespace="{namespace}",pod=~"{NAME}-.*"', "<<.GroupBy>>": "pod"}
        for name in series:
            query = rule["metricsQuery"].replace("<<.Series>>", name)
            for template, value in filled.items():
                query = query.replace(template, value)
            yield "prometheus-adapter", query


@pytest.fixture(scope="module")
def watching(octavo, shared_namespace, tmp_path_factory):
    """Prometheus, and a service that is asked something."""
    try:
        program = prometheus.binary(build.cache_folder())
    except prometheus.NoPrometheusError as error:
        pytest.skip(str(error))
    octavo.apply(octavo.service(NAME, shared_namespace))
    octavo.wait_ready(NAME, shared_namespace)
    folder = tmp_path_factory.mktemp("prometheus")
    pods = [("engines", pod) for pod in octavo.replicas(NAME, shared_namespace)]
    pods += [("operators", pod) for pod in octavo.operator_pods()]
    ports = {"proxy_port": free_port(), "port": free_port()}
    with prometheus.running(program, octavo.cluster, folder, pods, **ports) as running:
        yield running


def test_every_query_returns_data(octavo, watching, traffic, shared_namespace, record_property):
    """Prometheus scrapes engines and operators; each PromQL query of tutorial, dashboard and autoscaling samples has data"""
    with traffic(NAME, shared_namespace, clients=6, max_tokens=8) as driver:
        octavo.until(lambda: len(watching.query("vllm:num_requests_running")) == 1, 90, "the engine is not scraped")
        operators = len(octavo.operator_pods())
        octavo.until(lambda: len(watching.query("octavo_operator_leader")) == operators, 90, "nor are the operators")
        wrong = [each["lastError"] for each in watching.targets() if each["health"] == "down"]
        assert not wrong
        queries = [*(("tutorial", query) for query in TUTORIAL_QUERIES), *panels()]
        queries += autoscalers(shared_namespace, watching)
        missing = {query: title for title, query in queries}

        def all_return():
            # An edit, so that the operator has something to do within the minute that rates look back.
            octavo.kubectl("-n", shared_namespace, "annotate", "llms", NAME, f"asked={time.time():.0f}", "--overwrite")
            for query in list(missing):
                expression = query
                for name, value in VARIABLES.items():
                    expression = expression.replace(name, value)
                if _has_data(watching.query(expression)):
                    del missing[query]
            return not missing

        octavo.until(all_return, 150, lambda: f"no data: {missing}", every=5)
        assert driver.stop().failures == []
    record_property("queries", len(queries))


def _has_data(series):
    return any(not math.isnan(float(each["value"][1])) for each in series)
