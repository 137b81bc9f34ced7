"""Watches the event loop: how late it is, and what held it up.

A thread checks the loop's heartbeat, because nothing on the loop can while it is held up; it records which task runs
then. Tasks are named after the route that they serve. A delay while no route is served, as at the start or on a
machine that gives the process no time, is counted and not logged.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time

from octavo_engine.server.series import Histogram

logger = logging.getLogger(__name__)

BEAT_SECONDS = 0.05
LATE_SECONDS = 0.25  # above it, a line in the log
LOG_SECONDS = 10.0  # between two such lines
BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class LoopWatch:
    """`delays` has each beat's delay in seconds; `longest` is the largest since the start."""

    def __init__(self) -> None:
        self.delays = Histogram("octavo:event_loop_delay_seconds", "How late the API server's event loop ran.", BOUNDS)
        self.longest = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._due = 0.0
        self._culprit: str | None = None
        self._logged = -LOG_SECONDS
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="octavo-loop-watch", daemon=True)

    def start(self) -> None:
        """Begin on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._plan()
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()

    def _plan(self) -> None:
        assert self._loop is not None
        self._due = time.monotonic() + BEAT_SECONDS
        self._culprit = None
        self._loop.call_later(BEAT_SECONDS, self._beat)

    def _beat(self) -> None:
        now = time.monotonic()
        delay = max(0.0, now - self._due)
        self.delays.observe(delay)
        self.longest = max(self.longest, delay)
        if delay > LATE_SECONDS and self._culprit is not None and now - self._logged > LOG_SECONDS:
            self._logged = now
            logger.warning("the event loop was held up for %.2f s by %s", delay, self._culprit)
        if not self._ended.is_set():
            self._plan()

    def _look(self) -> None:
        assert self._loop is not None
        while not self._ended.wait(BEAT_SECONDS):
            if self._culprit is None and time.monotonic() > self._due + BEAT_SECONDS:
                task = asyncio.tasks.current_task(self._loop)
                if task is not None and not task.get_name().startswith("Task-"):  # asyncio's own name for one
                    self._culprit = task.get_name()
