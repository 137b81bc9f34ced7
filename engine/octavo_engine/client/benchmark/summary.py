"""Computes metrics from outcomes. Pure; times in seconds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from octavo_engine.client.benchmark.load import RequestOutcome


@dataclass(frozen=True, slots=True)
class Distribution:
    """All are NaN if there are no values."""

    mean: float
    p50: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Summary:
    """A run's metrics. Token counts and latencies are of the requests that succeeded."""

    succeeded: int
    failed: int
    failures: dict[str, int]  # reason to number of requests
    duration: float  # from the first request's sending to the last one's end
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    request_throughput: float  # a second, as are the next three
    output_throughput: float
    total_throughput: float
    first_token: Distribution
    per_output_token: Distribution  # of a request: (last token - first token) / (tokens - 1)
    inter_token: Distribution  # between one chunk and the next, over all requests
    end_to_end: Distribution
    counted_chunks: bool  # the server sent no usage: count chunks with text instead of tokens


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Linear between the two nearest ranks (numpy's default); `ordered` is sorted; NaN of no values."""
    if not ordered:
        return math.nan
    rank = (len(ordered) - 1) * percent / 100
    below = math.floor(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)


def distribution(values: Sequence[float]) -> Distribution:
    """Mean, median, 99th percentile and maximum."""
    ordered = sorted(values)
    if not ordered:
        return Distribution(math.nan, math.nan, math.nan, math.nan)
    return Distribution(
        math.fsum(ordered) / len(ordered), percentile(ordered, 50), percentile(ordered, 99), ordered[-1]
    )


def summarize(outcomes: Sequence[RequestOutcome]) -> Summary:
    """Metrics of one run; `outcomes` in any order, possibly none."""
    good = [outcome for outcome in outcomes if outcome.error is None]
    failures = Counter(outcome.error for outcome in outcomes if outcome.error is not None)
    duration = max((o.end for o in outcomes), default=0.0) - min((o.start for o in outcomes), default=0.0)
    prompt_tokens = sum(outcome.prompt_tokens for outcome in good)
    output_tokens = sum(outcome.output_tokens for outcome in good)

    def rate(amount: float) -> float:
        return amount / duration if duration > 0 else math.nan

    return Summary(
        succeeded=len(good),
        failed=len(outcomes) - len(good),
        failures=dict(failures),
        duration=duration,
        prompt_tokens=prompt_tokens,
        cached_tokens=sum(outcome.cached_tokens for outcome in good),
        output_tokens=output_tokens,
        request_throughput=rate(len(good)),
        output_throughput=rate(output_tokens),
        total_throughput=rate(prompt_tokens + output_tokens),
        first_token=distribution([o.first_token - o.start for o in good if o.first_token is not None]),
        per_output_token=distribution([t for t in map(_time_per_token, good) if t is not None]),
        inter_token=distribution([gap for outcome in good for gap in outcome.gaps]),
        end_to_end=distribution([outcome.end - outcome.start for outcome in good]),
        counted_chunks=any(outcome.counted_chunks for outcome in good),
    )


def _time_per_token(outcome: RequestOutcome) -> float | None:
    if outcome.first_token is None or outcome.last_token is None or outcome.output_tokens < 2:
        return None
    return (outcome.last_token - outcome.first_token) / (outcome.output_tokens - 1)
