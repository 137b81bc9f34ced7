"""One engine's metrics over time: the last sample of each, and the recent course of its counters.

Pure but for time, which is given.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from octavo_operator.exposition import Labels, Sample
from octavo_operator.metrics_api.catalog import COUNTERS, Metric
from octavo_operator.metrics_api.selectors import Selector

WINDOW_S = 30.0  # of a rate
STALE_PERIODS = 3

Samples = Mapping[str, list[Sample]]


@dataclass(frozen=True, slots=True)
class Moment:
    """A scrape's time: monotonic for ages, and seconds since 1970 for people."""

    monotonic: float
    unix: float


@dataclass(frozen=True, slots=True)
class Value:
    """A metric at a time; `window` is what a rate was taken over, 0 for a value of that moment."""

    value: float
    unix: float
    window: float = 0.0


@dataclass
class Series:
    """One engine's series. `period` is how often it is scraped."""

    period: float
    _at: Moment | None = None
    _samples: Samples = field(default_factory=dict)
    _counters: deque[tuple[Moment, dict[tuple[str, Labels], float]]] = field(default_factory=deque)

    def record(self, samples: Samples, at: Moment) -> None:
        """Take a scrape. Counters that went back, as after a restart, begin their course again."""
        counters = {(name, each.labels): each.value for name in COUNTERS & samples.keys() for each in samples[name]}
        if self._counters and any(counters.get(key, 0.0) < value for key, value in self._counters[-1][1].items()):
            self._counters.clear()
        self._counters.append((at, counters))
        # The oldest is kept until a younger one is as old as the window, so that a slow scrape still gives a rate.
        while len(self._counters) > 2 and at.monotonic - self._counters[1][0].monotonic >= WINDOW_S:
            self._counters.popleft()
        self._at, self._samples = at, samples

    def value(self, metric: Metric, chosen: Selector, now: float) -> Value | None:
        """The metric over the engine's series that are chosen; None where it is missing, or stale at `now`."""
        if self._at is None or now - self._at.monotonic > STALE_PERIODS * self.period:
            return None
        for source in metric.sources:
            samples = [each for each in self._samples.get(source, ()) if chosen(dict(each.labels))]
            if samples and metric.kind == "rate":
                return self._rate(source, samples)
            if samples:
                return Value(combined(metric, (each.value for each in samples)), self._at.unix)
        return None

    def _rate(self, source: str, samples: Iterable[Sample]) -> Value | None:
        """Rate a second; None until there are two scrapes."""
        (first, before), (last, _) = self._counters[0], self._counters[-1]
        span = last.monotonic - first.monotonic
        if span <= 0:
            return None
        grown = sum(each.value - before.get((source, each.labels), 0.0) for each in samples)
        return Value(grown / span, last.unix, span)


def combined(metric: Metric, values: Iterable[float]) -> float:
    """Combine the values of several ranks or pods."""
    found = list(values)
    return sum(found) / (len(found) if metric.of_many == "mean" else 1)
