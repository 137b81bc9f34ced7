"""The operator's own metrics, and its metrics of each service, for Prometheus.

A service's labels are not called `namespace` and `name`: scraped, they would give way to those of the operator's pod.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from octavo_operator.api.conditions import PROGRESSING, READY, STALLED
from octavo_operator.api.names import NamespacedName

RESULTS = ("unchanged", "changed", "waiting", "failed")
OF_SERVICE = ("llmservice_namespace", "llmservice")
CONDITIONS = (READY, PROGRESSING, STALLED)


class Metrics:
    """One registry a process, so that tests may have several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconciles = Counter(
            "octavo_operator_reconciles", "Reconciles, by result", ["result"], registry=self.registry
        )
        self.duration = Histogram(
            "octavo_operator_reconcile_duration_seconds",
            "Duration of a reconcile",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=self.registry,
        )
        self.writes = Counter(
            "octavo_operator_writes", "Objects written, by kind and verb", ["kind", "verb"], registry=self.registry
        )
        self.api_errors = Counter(
            "octavo_operator_api_errors", "Answers that were errors, by HTTP status", ["status"], registry=self.registry
        )
        self.depth = Gauge("octavo_operator_queue_depth", "Services that are due", registry=self.registry)
        self.services = Gauge("octavo_operator_services", "LLMServices that are known", registry=self.registry)
        self.leading = Gauge("octavo_operator_leader", "1 while this replica leads", registry=self.registry)
        self.watcher_up = Gauge(
            "octavo_operator_watcher_up",
            "1 while the watch of a resource is open",
            ["resource"],
            registry=self.registry,
        )
        self.watcher_restarts = Counter(
            "octavo_operator_watcher_restarts", "Times the watchers were restarted", registry=self.registry
        )
        self.last_success = Gauge(
            "octavo_operator_last_successful_reconcile_timestamp_seconds",
            "When a reconcile succeeded last",
            registry=self.registry,
        )
        self.upgrades = Gauge(
            "octavo_operator_upgrades",
            "Services that move to this release, and those that wait for their turn",
            ["state"],
            registry=self.registry,
        )
        self.upgrades_stopped = Gauge(
            "octavo_operator_upgrades_stopped",
            "1 while no service moves to this release, for three in a row did not serve it",
            registry=self.registry,
        )
        self.ready_replicas = Gauge(
            "octavo_llmservice_replicas_ready", "Replicas that answer", OF_SERVICE, registry=self.registry
        )
        self.desired_replicas = Gauge(
            "octavo_llmservice_replicas_desired", "Desired replicas", OF_SERVICE, registry=self.registry
        )
        self.condition = Gauge(
            "octavo_llmservice_condition",
            "1 while the condition is True",
            (*OF_SERVICE, "condition"),
            registry=self.registry,
        )
        for result in RESULTS:
            self.reconciles.labels(result)

    def record(self, key: NamespacedName, ready: int, desired: int, conditions: Mapping[str, str]) -> None:
        """Record a service's state; `conditions` gives the status of each type."""
        self.ready_replicas.labels(*key).set(ready)
        self.desired_replicas.labels(*key).set(desired)
        for kind in CONDITIONS:
            self.condition.labels(*key, kind).set(conditions[kind] == "True")

    def forget(self, key: NamespacedName) -> None:
        """The service is gone."""
        self.ready_replicas.remove(*key)
        self.desired_replicas.remove(*key)
        for kind in CONDITIONS:
            self.condition.remove(*key, kind)
