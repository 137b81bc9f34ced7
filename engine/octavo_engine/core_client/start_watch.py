"""Ends a start that makes no progress, so that no one has to guess how long a start may take.

A slow download or load may take as long as it makes progress: bytes that the engine's processes read and write, in
files and sockets alike, and the stages that they report.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

from octavo_engine.errors import ModelLoadError

LEAST_BYTES = 2**20  # fewer are a process' own chatter
LOOK_SECONDS = 1.0

T = TypeVar("T")
OnStage = Callable[[str, float], None]


def bytes_moved(pids: Iterable[int]) -> int | None:
    """Bytes that processes have read and written so far (proc(5), `io`); None where the system does not say."""
    total = 0
    for pid in pids:
        try:
            fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
            total += int(fields["rchar"]) + int(fields["wchar"])
        except FileNotFoundError:
            if not Path("/proc/self/io").exists():
                return None
        except (OSError, KeyError, ValueError):
            return None
    return total


class StartWatch:
    """One start. `moved` counts bytes; it returns None if it can't."""

    def __init__(self, moved: Callable[[], int | None], patience: float) -> None:
        """`patience`: seconds without progress; 0: for ever."""
        self._moved = moved
        self._patience = patience
        self._stage = "it began"
        self._last = time.monotonic()
        self._bytes = moved()

    def noting(self, on_stage: OnStage) -> OnStage:
        """`on_stage`, which is progress as well."""

        def noted(stage: str, seconds: float) -> None:
            self._stage, self._last = f"it {stage}", time.monotonic()
            on_stage(stage, seconds)

        return noted

    async def until(self, start: Coroutine[Any, Any, T]) -> T:
        """The result of `start`.

        Raises:
            ModelLoadError: it has made no progress for `patience` seconds.
        """
        task = asyncio.ensure_future(start)
        try:
            while not (await asyncio.wait([task], timeout=LOOK_SECONDS))[0]:
                if self._patience and self._stands_still():
                    raise ModelLoadError(
                        f"the start has made no progress for {self._patience:g} s since {self._stage}: see the log for "
                        "what it waited for, or raise --start-timeout"
                    )
            return task.result()
        finally:
            task.cancel()

    def _stands_still(self) -> bool:
        moved, now = self._moved(), time.monotonic()
        if moved is None or self._bytes is None or moved - self._bytes >= LEAST_BYTES:
            self._bytes, self._last = moved, now
        return now - self._last > self._patience
