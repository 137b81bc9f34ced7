"""The metrics that are served, and the engines' own metrics that each is read from. Pure data.

The names are vLLM's with an underscore for the colon, as adapters of Prometheus write them, and Octavo's own. An
autoscaler that was written for prometheus-adapter finds the same names here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from octavo_operator.runtimes import RUNTIMES
from octavo_operator.runtimes.runtime import MetricNames


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of a pod. `sources` are an engine's metrics, of which the first that it has is taken."""

    name: str
    sources: tuple[str, ...]
    kind: Literal["gauge", "rate"] = "gauge"
    of_many: Literal["sum", "mean"] = "sum"  # of a pod's ranks, and of a service's pods


def _names(of: Callable[[MetricNames], tuple[str, ...]]) -> tuple[str, ...]:
    """What any runtime calls a metric, present names first."""
    return tuple(dict.fromkeys(name for runtime in RUNTIMES.values() for name in of(runtime.metrics)))


WAITING = _names(lambda metrics: metrics.waiting)
RUNNING = _names(lambda metrics: metrics.running)
KV_USAGE = _names(lambda metrics: metrics.kv_usage)
TOKENS = _names(lambda metrics: metrics.generated)

METRICS = {
    metric.name: metric
    for metric in (
        Metric("vllm_num_requests_waiting", WAITING),
        Metric("vllm_num_requests_running", RUNNING),
        Metric("vllm_kv_cache_usage_perc", KV_USAGE, of_many="mean"),
        Metric("vllm_gpu_cache_usage_perc", KV_USAGE, of_many="mean"),
        Metric("vllm_generation_tokens_per_second", TOKENS, kind="rate"),
        Metric("octavo_requests_waiting", WAITING),
        Metric("octavo_requests_running", RUNNING),
        Metric("octavo_kv_cache_usage_ratio", KV_USAGE, of_many="mean"),
        Metric("octavo_generation_tokens_per_second", TOKENS, kind="rate"),
    )
}

GAUGES = frozenset(source for metric in METRICS.values() if metric.kind == "gauge" for source in metric.sources)
COUNTERS = frozenset(source for metric in METRICS.values() if metric.kind == "rate" for source in metric.sources)
