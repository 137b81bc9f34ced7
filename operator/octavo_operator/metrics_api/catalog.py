"""The metrics that are served, and the engines' own metrics that each is read from. Pure data.

The names are vLLM's with an underscore for the colon, as adapters of Prometheus write them, and Octavo's own. An
autoscaler that was written for prometheus-adapter finds the same names here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from octavo_operator.runtimes import RUNTIMES
from octavo_operator.runtimes.runtime import MetricNames, adapted


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of a pod. `sources` are an engine's metrics, of which the first that it has is taken."""

    name: str
    sources: tuple[str, ...]
    help: str
    kind: Literal["gauge", "rate"] = "gauge"
    of_many: Literal["sum", "mean"] = "sum"  # of a pod's ranks, and of a service's pods


def _names(of: Callable[[MetricNames], tuple[str, ...]]) -> tuple[str, ...]:
    """The names that any runtime gives a metric, present names first."""
    return tuple(dict.fromkeys(name for runtime in RUNTIMES.values() for name in of(runtime.metrics)))


WAITING = _names(lambda metrics: metrics.waiting)
RUNNING = _names(lambda metrics: metrics.running)
KV_USAGE = _names(lambda metrics: metrics.kv_usage)
TOKENS = _names(lambda metrics: metrics.generated)


OWN = (
    Metric("octavo_requests_waiting", WAITING, "requests in the queue"),
    Metric("octavo_requests_running", RUNNING, "requests in the batch"),
    Metric("octavo_kv_cache_usage_ratio", KV_USAGE, "KV blocks in use, 0 to 1", of_many="mean"),
    Metric("octavo_generation_tokens_per_second", TOKENS, "generated tokens a second", kind="rate"),
)
"""The metrics under names that are the same for every runtime."""


def aliases(of: Metric) -> tuple[str, ...]:
    """The names under which an adapter of Prometheus would serve the engines' own metrics."""
    rate = of.kind == "rate"
    return tuple(f"{adapted(each).removesuffix('_total')}_per_second" if rate else adapted(each) for each in of.sources)


METRICS = {name: replace(own, name=name) for own in OWN for name in (*aliases(own), own.name)}

GAUGES = frozenset(source for metric in METRICS.values() if metric.kind == "gauge" for source in metric.sources)
COUNTERS = frozenset(source for metric in METRICS.values() if metric.kind == "rate" for source in metric.sources)
