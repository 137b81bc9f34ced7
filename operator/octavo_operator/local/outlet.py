"""A stream with a writer thread, so that a stopped terminal (Ctrl-S) or a pager blocks no event loop.

What finds no room is dropped and counted. A reader that has gone (`| head`) ends the output, not what is being run.
"""

from __future__ import annotations

import io
import os
import queue
import threading
import time
from contextlib import suppress
from typing import Self, TextIO

WAITING = 1000  # lines
LAST_WORDS_S = 1.0


class Outlet(io.TextIOBase):
    """Passes text on to `stream`, in order. Never blocks, but for a moment when it is closed."""

    def __init__(self, stream: TextIO, waiting: int = WAITING) -> None:
        self._stream = stream
        self._waiting: queue.Queue[str | None] = queue.Queue(waiting)
        self._pending: list[str] = []
        self._dropped = 0
        self._gone = False
        self._thread = threading.Thread(target=self._run, name="outlet", daemon=True)
        self._thread.start()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding or "utf-8"

    def isatty(self) -> bool:
        return self._stream.isatty()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._pending.append(text)
        return len(text)

    def flush(self) -> None:
        """Hand over what was written, or drop it."""
        text, self._pending = "".join(self._pending), []
        if not text or self._gone:
            return
        if self._dropped:
            text = f"({self._dropped} lines were left out while nothing was read here)\n{text}"
        try:
            self._waiting.put_nowait(text)
            self._dropped = 0
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Wait a moment for what was written."""
        super().close()
        if not self._gone:
            with suppress(queue.Full):  # the reader has stopped for good
                self._waiting.put(None, timeout=LAST_WORDS_S)
                self._thread.join(LAST_WORDS_S)

    def __enter__(self) -> Self:
        return self

    def _run(self) -> None:
        # Straight to the descriptor: a thread that waits within the stream would keep its lock from the interpreter's
        # end, which flushes it.
        try:
            descriptor = self._stream.fileno()
        except (OSError, ValueError):  # none behind it
            descriptor = None
        while not self._gone and (text := self._waiting.get()) is not None:
            try:
                if descriptor is None:
                    self._stream.write(text)
                else:
                    _write_all(descriptor, text.encode(self.encoding, self._stream.errors or "strict"))
            except (OSError, ValueError):
                self._gone = True


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # another program has made the terminal non-blocking
            time.sleep(0.05)
