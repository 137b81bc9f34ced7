"""The wanted samples of an engine's metrics are read exactly, and nothing else is."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from octavo_operator.exposition import Sample, parse


def test_only_the_wanted_names_are_read_though_others_begin_alike():
    """A name that another begins with, a histogram's parts and comments are passed over."""
    text = (
        "# HELP waiting a help, waiting 7\n# TYPE waiting gauge\n"
        'waiting{engine="0"} 3\nwaiting_by_reason{reason="capacity"} 9\nwaiting 4.5 1700000000000\n'
    )
    assert parse(text, {"waiting"}) == {"waiting": [Sample((("engine", "0"),), 3.0), Sample((), 4.5)]}


def test_label_values_may_hold_commas_braces_quotes_and_line_ends():
    """Model names of strangers do."""
    text = 'w{model_name="a,\\"b}\\" \\\\ c\\n",engine="1",} 2\n'
    assert parse(text, {"w"})["w"] == [Sample((("engine", "1"), ("model_name", 'a,"b}" \\ c\n')), 2.0)]


@pytest.mark.parametrize("line", ["w{", "w", "w NaN", "w +Inf", "w twelve", 'w{a="b} 3x'])
def test_what_is_no_finite_number_counts_as_missing(line):
    """A figure that can't be read is not a zero."""
    assert parse(line + "\n", {"w"}) == {}


def test_what_prometheus_own_client_writes_is_read():
    """Gauges and counters, whatever else stands between them."""
    registry = CollectorRegistry()
    Gauge("g", "a gauge", ["model_name"], registry=registry).labels('we"ird\\').set(0.25)
    Counter("c", "a counter", registry=registry).inc(12)
    Histogram("g_seconds", "another", registry=registry).observe(1)
    found = parse(generate_latest(registry).decode(), {"g", "c_total"})
    assert found == {"g": [Sample((("model_name", 'we"ird\\'),), 0.25)], "c_total": [Sample((), 12.0)]}
