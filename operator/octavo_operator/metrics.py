"""What the operator counts of itself, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

RESULTS = ("unchanged", "changed", "waiting", "failed")


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
            "octavo_operator_watcher_restarts", "Times the watchers were started anew", registry=self.registry
        )
        self.last_success = Gauge(
            "octavo_operator_last_successful_reconcile_timestamp_seconds",
            "When a reconcile succeeded last",
            registry=self.registry,
        )
        for result in RESULTS:
            self.reconciles.labels(result)
