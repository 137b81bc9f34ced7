"""The events of requests, as those who count and trace them receive them."""

from __future__ import annotations

from typing import Protocol

from octavo_engine.messages import EngineOutput, EngineRequest, PoolingRequest, SchedulerStats


class Observer(Protocol):
    """Receives each event of a request; it must return quickly. Times are `time.monotonic()`."""

    def rejected(self, reason: str) -> None: ...

    def arrived(self, request: EngineRequest | PoolingRequest) -> None: ...

    def output(self, output: EngineOutput, now: float) -> None: ...

    def finished(self, request_id: str, reason: str, now: float) -> None: ...

    def stepped(self, stats: SchedulerStats, now: float) -> None: ...
