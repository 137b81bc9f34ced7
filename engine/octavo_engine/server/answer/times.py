"""The times of one answer, as vLLM's `--enable-per-request-metrics` has them."""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec

from octavo_engine.messages import EngineOutput


class RequestTimes(msgspec.Struct):
    """An answer's `metrics`; null is not known, such as the time between tokens of a single one."""

    time_to_first_token_ms: float | None = None
    generation_time_ms: float | None = None
    queue_time_ms: float | None = None
    mean_itl_ms: float | None = None
    tokens_per_second: float | None = None


@dataclass(slots=True)
class Clock:
    """Moments at which a choice waited, ran and had its tokens: `time.monotonic()`, 0 where it has not come to that."""

    queued: float = 0.0
    scheduled: float = 0.0
    first: float = 0.0
    last: float = 0.0
    num_tokens: int = 0

    def note(self, output: EngineOutput) -> None:
        """Follow an output that has just come."""
        self.queued = self.queued or output.queued_at
        self.scheduled = self.scheduled or output.scheduled_at
        if output.new_token_ids:
            self.last = time.monotonic()
            self.first = self.first or self.last
            self.num_tokens += len(output.new_token_ids)

    def times(self) -> RequestTimes:
        """The times between them, as vLLM has them: the first token is counted from when the prompt began to run."""
        if not (self.scheduled and self.first):
            return RequestTimes()
        generation, running = self.last - self.first, self.last - self.scheduled
        return RequestTimes(
            time_to_first_token_ms=1000 * max(0.0, self.first - self.scheduled),
            generation_time_ms=1000 * generation,
            queue_time_ms=1000 * max(0.0, self.scheduled - self.queued),
            mean_itl_ms=1000 * generation / (self.num_tokens - 1) if self.num_tokens > 1 else None,
            tokens_per_second=self.num_tokens / running if running > 0 else None,
        )
