"""The benchmark's pure parts, and the parser of server-sent events."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from octavo_testing.properties import tried

from octavo_engine.client.benchmark import report
from octavo_engine.client.benchmark.load import RequestOutcome
from octavo_engine.client.benchmark.summary import distribution, percentile, summarize
from octavo_engine.client.benchmark.workload import WORDS, Workload
from octavo_engine.client.openai_client import EventParser

finite = st.floats(-1e6, 1e6)


@tried(100)
@given(st.lists(finite, min_size=1, max_size=50), st.floats(0, 100))
def test_percentiles_are_numpys(values, percent):
    """Linear interpolation between ranks."""
    assert percentile(sorted(values), percent) == pytest.approx(np.percentile(values, percent), abs=1e-6)


def test_a_distribution_of_nothing_is_nan():
    """A run in which all failed still has a report."""
    nothing = distribution([])
    assert all(math.isnan(value) for value in (nothing.mean, nothing.p50, nothing.p99, nothing.max))


def test_figures_of_a_run_by_hand():
    """Two requests that succeed and one that does not, over two seconds."""
    summary = summarize(
        [
            RequestOutcome(10.0, 11.0, 10.25, 11.0, [0.25, 0.5], prompt_tokens=100, cached_tokens=40, output_tokens=4),
            RequestOutcome(10.5, 12.0, 11.0, 12.0, [1.0], prompt_tokens=50, output_tokens=2),
            RequestOutcome(10.5, 10.6, error="no"),
        ]
    )
    assert (summary.succeeded, summary.failed, summary.failures) == (2, 1, {"no": 1})
    assert summary.duration == 2
    assert summary.request_throughput == 1
    assert summary.output_throughput == 3
    assert summary.total_throughput == 78
    assert summary.cached_tokens == 40
    assert summary.first_token.mean == 0.375
    assert summary.per_output_token.mean == pytest.approx((0.25 + 1.0) / 2)
    assert summary.inter_token.p50 == 0.5
    assert summary.end_to_end.max == 1.5


def test_a_run_in_which_all_failed_has_a_report():
    """Dashes in the table, nulls in JSON."""
    from rich.console import Console

    summary = summarize([RequestOutcome(1.0, 2.0, error="no [such] thing")])
    console = Console(width=120)
    with console.capture() as captured:
        console.print(report.table(summary, "title"))
    assert "1 failed: no [such] thing" in captured.get()
    assert "–" in captured.get()
    assert json.loads(report.as_json(summary, {"seed": 1}))["ttft_ms"]["p99"] is None


def test_word_prompts_have_as_many_words_as_asked():
    """Word prompts share their prefix."""
    first, second = Workload(2, 5, 3, seed=1).prompts(as_words=True)
    assert len(first.split()) == len(second.split()) == 8
    assert first.split()[:3] == second.split()[:3]
    assert first != second
    assert len(set(WORDS)) == len(WORDS)


def test_arrivals_are_poisson_at_the_rate():
    """Mean and deviation of the gaps are 1/rate, and the first request waits for nothing."""
    arrivals = Workload(20000, 1, rate=50, seed=3).arrivals()
    gaps = np.diff(arrivals)
    assert arrivals[0] == 0
    assert gaps.mean() == pytest.approx(0.02, rel=0.05)
    assert gaps.std() == pytest.approx(0.02, rel=0.05)


@tried(200)
@given(
    st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])), max_size=6),
    st.lists(st.integers(0, 200), max_size=8),
    st.sampled_from(["\n", "\r\n"]),
)
def test_events_are_the_same_wherever_the_bytes_are_cut(payloads, cuts, newline):
    """Comments, other fields and empty events between them say nothing."""
    text = "".join(f": note{newline}{newline}event: x{newline}data: {p}{newline}{newline}" for p in payloads)
    data = text.encode()
    borders = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    parser = EventParser()
    events = [e for a, b in itertools.pairwise(borders) for e in parser.feed(data[a:b])]
    assert events == [payload.encode() for payload in payloads]


def test_data_on_several_lines_is_joined():
    """With a newline, as the standard says."""
    assert EventParser().feed(b"data: a\ndata:b\n\n") == [b"a\nb"]
