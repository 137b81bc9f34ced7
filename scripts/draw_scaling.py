"""Draws a measured scale-out and scale-in as an SVG: queue, replicas, and failed requests over time.

    python scripts/draw_scaling.py .e2e/scaling.json docs/images/scaling.svg

The input is what `make e2e` has measured: samples twice a second, and the time of each failed request.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 860, 400
LEFT, RIGHT = 70, 20
TOPS = {"queue": 50, "replicas": 210, "failed": 340}  # of each panel
TALL = {"queue": 120, "replicas": 90, "failed": 16}
INK, GREY, BLUE, GREEN, RED = "#24292f", "#8c959f", "#0969da", "#1a7f37", "#cf222e"


class Panel:
    """One of the curves' places: seconds and values become pixels."""

    def __init__(self, name: str, seconds: float, most: float) -> None:
        self.top, self.tall, self.seconds, self.most = TOPS[name], TALL[name], seconds, most

    def x(self, second: float) -> float:
        return LEFT + second / self.seconds * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return self.top + self.tall * (1 - value / self.most)

    def steps(self, points: Sequence[tuple[float, float]], colour: str, *, dashed: bool = False) -> str:
        """A curve that holds each value until the next."""
        path, last = [], None
        for second, value in points:
            if last is None:
                path.append(f"M{self.x(second):.1f},{self.y(value):.1f}")
            elif value != last:
                path.append(f"H{self.x(second):.1f}V{self.y(value):.1f}")
            last = value
        path.append(f"H{self.x(points[-1][0]):.1f}")
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        return f'<path d="{"".join(path)}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'

    def axis(self, values: Sequence[float]) -> str:
        lines = [
            f'<path d="M{LEFT},{self.y(v):.1f}H{WIDTH - RIGHT}" stroke="#d0d7de"/>{text(LEFT - 8, self.y(v) + 4, f"{v:g}", end=True)}'
            for v in values
        ]
        return "".join(lines)


def text(x: float, y: float, words: str, colour: str = INK, *, end: bool = False, bold: bool = False) -> str:
    style = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="{colour}"{style}{" text-anchor=" + chr(34) + "end" + chr(34) if end else ""}>{words}</text>'


def draw(run: dict[str, Any]) -> str:
    """The figure. `run` has `samples` (at, desired, ready, queue), `formed`, `failed` and `requests`."""
    samples = run["samples"]
    start, stop = samples[0]["at"], samples[-1]["at"]
    seconds = stop - start
    waiting = [(s["at"] - start, s["queue"]) for s in samples if s["queue"] is not None]
    most = max(4.0, *(value for _, value in waiting))
    queue = Panel("queue", seconds, most)
    replicas = Panel("replicas", seconds, max(s["desired"] for s in samples) + 0.5)
    failed = Panel("failed", seconds, 1)
    top = max(s["desired"] for s in samples)
    decided = next(s["at"] for s in samples if s["desired"] == top) - run["formed"]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        text(LEFT, 24, f"{top} replicas desired {decided:.0f} s after the queue formed", bold=True),
        queue.axis([0, round(most / 2), round(most)]),
        queue.steps(waiting, BLUE),
        text(LEFT, TOPS["queue"] - 6, "requests that wait, of all replicas", BLUE),
        replicas.axis(range(top + 1)),
        replicas.steps([(s["at"] - start, s["ready"]) for s in samples], GREEN),
        replicas.steps([(s["at"] - start, s["desired"]) for s in samples], GREY, dashed=True),
        text(LEFT, TOPS["replicas"] - 6, "replicas ready", GREEN),
        text(LEFT + 100, TOPS["replicas"] - 6, "– – desired", GREY),
        text(LEFT, TOPS["failed"] - 6, f"requests failed: {len(run['failed'])} of {run['requests']}", RED),
        failed.axis([0]),
        *(
            f'<circle cx="{failed.x(at - start):.1f}" cy="{failed.y(0.5):.1f}" r="3" fill="{RED}"/>'
            for at in run["failed"]
        ),
        *(
            text(failed.x(second) - 8, HEIGHT - 18, f"{second} s", GREY)
            for second in range(0, int(seconds) + 1, 30 if seconds < 400 else 60)
        ),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(draw(json.loads(source.read_text())))
    print(f"drawn: {target}")
