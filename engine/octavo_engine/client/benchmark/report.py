"""A run's metrics as a table for a person and as JSON for a program."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from octavo_engine.client.benchmark.summary import Distribution, Summary


def table(summary: Summary, title: str) -> RenderableType:
    """Counts and throughput above, latencies in milliseconds below, then what failed and why."""
    counts = Table(show_header=False, box=None)
    counts.add_column()
    counts.add_column(justify="right")
    cached = f" ({summary.cached_tokens:,} from the prefix cache)" if summary.cached_tokens else ""
    for name, value in (
        ("requests", f"{summary.succeeded} ok, {summary.failed} failed"),
        ("duration", f"{summary.duration:.2f} s"),
        ("prompt tokens", f"{summary.prompt_tokens:,}{cached}"),
        ("output tokens", f"{summary.output_tokens:,}"),
        ("requests/s", _number(summary.request_throughput, 2)),
        ("output tokens/s", _number(summary.output_throughput, 1)),
        ("total tokens/s", _number(summary.total_throughput, 1)),
    ):
        counts.add_row(name, value)
    latencies = Table(box=None)
    latencies.add_column("latency, ms")
    for name in ("mean", "p50", "p99", "max"):
        latencies.add_column(name, justify="right")
    for name, values in (
        ("time to first token", summary.first_token),
        ("time per output token", summary.per_output_token),
        ("inter-token latency", summary.inter_token),
        ("end to end", summary.end_to_end),
    ):
        latencies.add_row(name, *(_number(value * 1000, 1) for value in _values(values)))
    notes = [Text(f"{count} failed: {reason}") for reason, count in sorted(summary.failures.items())]
    if summary.counted_chunks:
        notes.append(Text("The server sent no usage: chunks with text are counted instead of tokens."))
    return Group(Text(title), Text(), counts, Text(), latencies, *notes)


def as_json(summary: Summary, settings: dict[str, Any]) -> str:
    """The settings and all metrics; latencies in milliseconds, what was not measured is null."""
    metrics = asdict(summary)
    latencies = {
        name: {statistic: seconds * 1000 for statistic, seconds in metrics.pop(key).items()}
        for name, key in (
            ("ttft_ms", "first_token"),
            ("tpot_ms", "per_output_token"),
            ("itl_ms", "inter_token"),
            ("e2e_ms", "end_to_end"),
        )
    }
    return json.dumps({"settings": settings, **_nulled(metrics), **_nulled(latencies)}, indent=2)


def _values(values: Distribution) -> tuple[float, float, float, float]:
    return values.mean, values.p50, values.p99, values.max


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:,.{digits}f}"


def _nulled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nulled(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
