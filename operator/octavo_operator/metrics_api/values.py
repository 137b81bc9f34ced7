"""Turns the engines' metrics into the API's answers. Pure: everything is given.

A pod that loads, or whose value is missing or stale, is left out, and never counted as nothing: the autoscaler takes a
pod without a value for one that has exactly its share, and scales by nothing at all where no pod has one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from octavo_operator.api.v1alpha1 import API_VERSION, KIND
from octavo_operator.metrics_api.catalog import Metric
from octavo_operator.metrics_api.documents import GROUP, Document
from octavo_operator.metrics_api.engines import EnginePod
from octavo_operator.metrics_api.scraper import PodName
from octavo_operator.metrics_api.selectors import Selector
from octavo_operator.metrics_api.series import Series, Value, combined


@dataclass(frozen=True, slots=True)
class Row:
    """A metric of one object."""

    api_version: str
    kind: str
    namespace: str
    name: str
    value: Value


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The engines and their series at `now`, monotonic."""

    engines: Iterable[EnginePod]
    series: Mapping[PodName, Series]
    now: float

    def value(self, engine: EnginePod, metric: Metric, chosen: Selector) -> Value | None:
        series = self.series.get(engine.key)
        return None if series is None else series.value(metric, chosen, self.now)


def of_pods(known: Snapshot, namespace: str, wanted: Selector, metric: Metric, chosen: Selector) -> list[Row]:
    """Values of the pods that the labels select, by name."""
    rows = [
        Row("v1", "Pod", namespace, engine.name, value)
        for engine in known.engines
        if engine.namespace == namespace and wanted(engine.labels)
        if (value := known.value(engine, metric, chosen)) is not None
    ]
    return sorted(rows, key=lambda row: row.name)


def of_pod(known: Snapshot, namespace: str, name: str, metric: Metric, chosen: Selector) -> list[Row]:
    """The value of one pod, as one row or none."""
    named = [engine for engine in known.engines if engine.name == name]
    return of_pods(Snapshot(named, known.series, known.now), namespace, lambda _: True, metric, chosen)


def of_service(known: Snapshot, namespace: str, name: str, metric: Metric, chosen: Selector) -> list[Row]:
    """The value over all engines of a service that answer; none where one lacks it, for the rest would be too little."""
    engines = [each for each in known.engines if each.namespace == namespace and each.service == name]
    values = [value for each in engines if (value := known.value(each, metric, chosen)) is not None]
    if not values or len(values) < len(engines):
        return []
    total = Value(
        combined(metric, (each.value for each in values)),
        min(each.unix for each in values),
        max(each.window for each in values),
    )
    return [Row(API_VERSION, KIND, namespace, name, total)]


def document(version: str, metric: Metric, rows: Iterable[Row]) -> Document:
    """A MetricValueList."""
    return {
        "kind": "MetricValueList",
        "apiVersion": f"{GROUP}/{version}",
        "metadata": {},
        "items": [_item(version, metric, row) for row in rows],
    }


def _item(version: str, metric: Metric, row: Row) -> Document:
    name: dict[str, Any]
    window = round(row.value.window)
    if version == "v1beta1":
        name = {"metricName": metric.name, "selector": None, "window": window}
    else:
        name = {"metric": {"name": metric.name, "selector": None}, "windowSeconds": window}
    at = dt.datetime.fromtimestamp(row.value.unix, dt.UTC)
    return {
        "describedObject": {
            "kind": row.kind,
            "namespace": row.namespace,
            "name": row.name,
            "apiVersion": row.api_version,
        },
        **name,
        "timestamp": at.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "value": quantity(row.value.value),
    }


def quantity(value: float) -> str:
    """A quantity as Kubernetes writes it, exact to a thousandth: `12`, `437m`."""
    thousandths = round(value * 1000)
    whole, rest = divmod(thousandths, 1000)
    return f"{thousandths}m" if rest else str(whole)
