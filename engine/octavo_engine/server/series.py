"""Numbers that are counted for /metrics: plain and quick to change, turned into prometheus-client's families on demand.

Everything runs on one event loop, so nothing here locks: an observation is a bisection and two additions.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric


class Histogram:
    """Counts of values by bucket; `bounds` are the upper ones, without +Inf."""

    __slots__ = ("bounds", "counts", "documentation", "name", "total")

    def __init__(self, name: str, documentation: str, bounds: Sequence[float]) -> None:
        self.name = name
        self.documentation = documentation
        self.rebuild(bounds)

    def rebuild(self, bounds: Sequence[float]) -> None:
        """Start again with other buckets."""
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def family(self, labels: dict[str, str]) -> Metric:
        metric = HistogramMetricFamily(self.name, self.documentation, labels=list(labels))
        metric.add_metric(list(labels.values()), self.buckets(), self.total)
        return metric

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bounds and cumulative counts, as prometheus-client takes them."""
        names = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        return list(zip(names, accumulate(self.counts), strict=True))


class Counter:
    """A total that only grows, for each value of one further label, or for none."""

    __slots__ = ("documentation", "label", "name", "values")

    def __init__(self, name: str, documentation: str, label: str | None = None, values: Sequence[str] = ("",)) -> None:
        self.name = name
        self.documentation = documentation
        self.label = label
        self.values = dict.fromkeys(values, 0.0)

    def add(self, amount: float = 1, value: str = "") -> None:
        self.values[value] = self.values.get(value, 0.0) + amount

    def family(self, labels: dict[str, str]) -> Metric:
        further = [] if self.label is None else [self.label]
        metric = CounterMetricFamily(self.name, self.documentation, labels=[*labels, *further])
        for value, total in self.values.items():
            metric.add_metric([*labels.values(), *([] if self.label is None else [value])], total)
        return metric


def gauge(name: str, documentation: str, value: float, labels: dict[str, str]) -> Metric:
    """One gauge with one value."""
    metric = GaugeMetricFamily(name, documentation, labels=list(labels))
    metric.add_metric(list(labels.values()), value)
    return metric


def one_two_five(limit: int) -> Iterator[int]:
    """1, 2, 5, 10, 20, 50 … up to `limit`."""
    exponent = 1
    while True:
        for mantissa in (1, 2, 5):
            value = mantissa * exponent
            if value > limit:
                return
            yield value
        exponent *= 10
