"""The display of `octavo up` while replicas start and run: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, cast

from octavo_operator.local.outlet import Outlet

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table


class Plain:
    """A line for each thing that happens."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stderr
        self._start = time.monotonic()

    def show(self, text: str) -> None:
        """A line about the whole."""
        print(text, file=self._stream, flush=True)

    def replica(self, name: str, phase: str, detail: str) -> None:
        """Print a replica's phase: starting, loading, ready, ended, stopping or stopped."""
        shown = detail if phase in {"loading", "ended"} else f"{phase} {detail}".rstrip()
        print(f"{time.monotonic() - self._start:7.1f} s  {name}  {shown}", file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing more is coming."""


class Terminal(Plain):
    """A table that moves until all replicas are ready, then plain lines: a model serves for longer than it loads."""

    def __init__(self, names: Sequence[str], stream: IO[str] | None = None) -> None:
        super().__init__(stream)
        from rich.console import Console  # noqa: PLC0415 — plain output does without
        from rich.live import Live  # noqa: PLC0415

        self._rows = dict.fromkeys(names, ("waiting", ""))
        self._live: Live | None = Live(
            self._table(), console=Console(file=self._stream), auto_refresh=False, transient=True
        )
        self._live.start()

    def show(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            super().show(text)

    def replica(self, name: str, phase: str, detail: str) -> None:
        self._rows[name] = (phase, detail)
        if self._live is None:
            super().replica(name, phase, detail)
            return
        if phase == "ended":
            self.show(f"{name} {detail}")
        elif phase == "ready":
            self.show(f"{name} is ready after {time.monotonic() - self._start:.1f} s")
        self._live.update(self._table(), refresh=True)
        if all(known == "ready" for known, _ in self._rows.values()):
            self.close()

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _table(self) -> Table:
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for _ in range(3):
            table.add_column(no_wrap=True, overflow="ellipsis")
        colours = {"ready": "green", "ended": "red", "loading": "cyan"}
        for name, (phase, detail) in self._rows.items():
            table.add_row(Text(name), Text(phase, style=colours.get(phase, "")), Text(" ".join(detail.split())))
        return table


@contextmanager
def display_for(names: Sequence[str]) -> Iterator[Plain]:
    """A table where standard error is a terminal that can move its cursor."""
    with Outlet(sys.stderr) as outlet:
        stream = cast("IO[str]", outlet)
        moves = stream.isatty() and os.environ.get("TERM") != "dumb"
        display = Terminal(names, stream) if moves else Plain(stream)
        try:
            yield display
        finally:
            display.close()
