"""The series of batches on /metrics."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator
from typing import TYPE_CHECKING, get_args

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from octavo_engine.messages import SchedulerStats
from octavo_engine.server.series import Counter, gauge
from octavo_engine.server.stored_batches.objects import BatchStatus

if TYPE_CHECKING:
    from octavo_engine.server.stored_batches.folder import BatchFolder


class BatchSeries:
    """Rows that were answered, and what the folder holds. Requests in the background are part of no latency of vLLM's."""

    def __init__(self) -> None:
        self.folder: BatchFolder | None = None
        outcomes = ("answered", "refused", "expired")
        self.rows = Counter(
            "octavo:batch_rows", "Rows of batches that have an answer, by outcome.", "outcome", outcomes
        )

    def collect(self, labels: dict[str, str], stats: SchedulerStats) -> Iterator[Metric]:
        """All families, for prometheus-client."""
        folder = self.folder
        yield self.rows.family(labels)
        statuses = Tally(record.batch.status for record in folder.batches.values()) if folder is not None else Tally()
        family = GaugeMetricFamily("octavo:batches", "Batches that are kept, by status.", labels=[*labels, "status"])
        for status in get_args(BatchStatus):
            family.add_metric([*labels.values(), status], statuses[status])
        yield family
        running, waiting = stats.num_background_running, stats.num_background_waiting
        yield gauge("octavo:batch_requests_running", "Requests of batches in the engine's steps.", running, labels)
        yield gauge("octavo:batch_requests_waiting", "Requests of batches that wait for a place.", waiting, labels)
        used = 0 if folder is None else folder.used
        yield gauge("octavo:batch_dir_bytes", "Bytes of the files in --batch-dir.", used, labels)
