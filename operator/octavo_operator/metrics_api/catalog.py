"""The metrics that are served, and the engines' own metrics that each is read from. Pure data.

The names are vLLM's with an underscore for the colon, as adapters of Prometheus write them, and Octavo's own. An
autoscaler that was written for prometheus-adapter finds the same names here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from octavo_operator.runtimes import RUNTIMES
from octavo_operator.runtimes.runtime import MetricNames, adapted


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of a pod. `sources` are an engine's metrics, of which the first that it has is taken."""

    name: str
    sources: tuple[str, ...]
    kind: Literal["gauge", "rate"] = "gauge"
    of_many: Literal["sum", "mean"] = "sum"  # of a pod's ranks, and of a service's pods


def _names(of: Callable[[MetricNames], tuple[str, ...]]) -> tuple[str, ...]:
    """The names that any runtime gives a metric, present names first."""
    return tuple(dict.fromkeys(name for runtime in RUNTIMES.values() for name in of(runtime.metrics)))


WAITING = _names(lambda metrics: metrics.waiting)
RUNNING = _names(lambda metrics: metrics.running)
KV_USAGE = _names(lambda metrics: metrics.kv_usage)
TOKENS = _names(lambda metrics: metrics.generated)


def _catalog() -> Iterator[Metric]:
    yield from (Metric(adapted(name), WAITING) for name in WAITING)
    yield from (Metric(adapted(name), RUNNING) for name in RUNNING)
    yield from (Metric(adapted(name), KV_USAGE, of_many="mean") for name in KV_USAGE)
    yield from (Metric(f"{adapted(name).removesuffix('_total')}_per_second", TOKENS, kind="rate") for name in TOKENS)
    yield Metric("octavo_requests_waiting", WAITING)
    yield Metric("octavo_requests_running", RUNNING)
    yield Metric("octavo_kv_cache_usage_ratio", KV_USAGE, of_many="mean")
    yield Metric("octavo_generation_tokens_per_second", TOKENS, kind="rate")


METRICS = {metric.name: metric for metric in _catalog()}

GAUGES = frozenset(source for metric in METRICS.values() if metric.kind == "gauge" for source in metric.sources)
COUNTERS = frozenset(source for metric in METRICS.values() if metric.kind == "rate" for source in metric.sources)
