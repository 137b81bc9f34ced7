"""A figure is true and fresh, or it is not given."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from fake_engines import FakeEngine

from octavo_operator.exposition import Sample
from octavo_operator.metrics_api.catalog import METRICS
from octavo_operator.metrics_api.engines import EnginePod
from octavo_operator.metrics_api.scraper import ScrapeError, Scraper, scrape
from octavo_operator.metrics_api.selectors import parse
from octavo_operator.metrics_api.series import Moment, Series

WAITING, KV, TOKENS = (
    METRICS["vllm_num_requests_waiting"],
    METRICS["octavo_kv_cache_usage_ratio"],
    METRICS["vllm_generation_tokens_per_second"],
)
ANY = parse("")


def gauge(*values, name="vllm:num_requests_waiting"):
    return {name: [Sample((("engine", str(rank)),), value) for rank, value in enumerate(values)]}


def tokens(*values):
    return gauge(*values, name="vllm:generation_tokens_total")


def at(seconds):
    return Moment(seconds, 1_700_000_000 + seconds)


def test_a_gauge_is_summed_over_the_ranks_and_has_no_window():
    """Its time is that of the scrape."""
    series = Series(period=5)
    series.record(gauge(3, 4), at(10))
    value = series.value(WAITING, ANY, now=11)
    assert (value.value, value.unix, value.window) == (7, 1_700_000_010, 0)


def test_a_share_is_averaged_over_the_ranks():
    """Two ranks that are half full are half full."""
    series = Series(period=5)
    series.record(gauge(0.25, 0.75, name="vllm:kv_cache_usage_perc"), at(0))
    assert series.value(KV, ANY, now=0).value == 0.5


def test_series_are_chosen_by_their_labels():
    """metricLabelSelector; where none matches the figure is missing, not zero."""
    series = Series(period=5)
    series.record(gauge(3, 4), at(0))
    assert series.value(WAITING, parse("engine=1"), now=0).value == 4
    assert series.value(WAITING, parse("engine=7"), now=0) is None


def test_a_value_is_served_for_three_periods_and_no_longer():
    """The engine's load is not known afterwards."""
    series = Series(period=5)
    series.record(gauge(3), at(100))
    assert series.value(WAITING, ANY, now=115).value == 3
    assert series.value(WAITING, ANY, now=115.1) is None


def test_an_older_name_is_taken_where_an_engine_has_only_that():
    """gpu_cache_usage_perc of engines before its renaming."""
    series = Series(period=5)
    series.record(gauge(0.5, name="vllm:gpu_cache_usage_perc"), at(0))
    assert series.value(KV, ANY, now=0).value == 0.5


def test_a_rate_needs_two_scrapes_and_states_its_true_window():
    """Tokens over the time between the first and the last scrape."""
    series = Series(period=5)
    series.record(tokens(1000), at(0))
    assert series.value(TOKENS, ANY, now=0) is None
    series.record(tokens(1100), at(4))
    value = series.value(TOKENS, ANY, now=4)
    assert (value.value, value.window) == (25, 4)


def test_a_rate_looks_back_thirty_seconds():
    """What was long ago no longer counts."""
    series = Series(period=5)
    for second in range(0, 101, 5):
        series.record(tokens(second * 10 if second <= 50 else 500), at(second))
    value = series.value(TOKENS, ANY, now=100)
    assert (value.value, value.window) == (0, 30)


def test_counters_that_went_back_start_again():
    """A container that was restarted has not generated a negative number of tokens."""
    series = Series(period=5)
    series.record(tokens(1000), at(0))
    series.record(tokens(1100), at(5))
    series.record(tokens(10), at(10))
    assert series.value(TOKENS, ANY, now=10) is None
    series.record(tokens(60), at(15))
    assert series.value(TOKENS, ANY, now=15).value == 10


def test_a_metric_that_an_engine_stops_telling_is_missing_at_once():
    """The former value is not carried on."""
    series = Series(period=5)
    series.record(gauge(3), at(0))
    series.record({}, at(5))
    assert series.value(WAITING, ANY, now=5) is None


@pytest.mark.parametrize("figure", METRICS.values(), ids=METRICS)
def test_nothing_is_reported_of_nothing(figure):
    """An engine that was never scraped has no figure at all."""
    assert Series(period=5).value(figure, ANY, now=0) is None


async def until_asked(engine, count):
    while engine.asked < count:  # noqa: ASYNC110 — it is answered by a thread
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("was_well", [True, False])
async def test_an_engine_that_was_well_is_asked_as_often_as_ever_after_a_miss(was_well):
    """The busiest engine misses a deadline first; were it left alone for longer, its load would vanish from the sum."""
    with FakeEngine(status=200 if was_well else 500) as fake:
        engine = EnginePod("n", "p", "uid", f"http://{fake.address}:{fake.port}/metrics", {})
        async with aiohttp.ClientSession() as session:
            scraper = Scraper(session, 0.1)
            scraper.follow({("n", "p"): engine})
            await until_asked(fake, 1)
            fake.status = 500
            before = fake.asked
            await asyncio.sleep(1.5)
            await scraper.close()
    asked = fake.asked - before
    assert asked >= 8 if was_well else asked <= 5


@pytest.mark.parametrize(
    ("host", "expected", "refused"), [("a", "a", False), ("b", "a", True), ("b", None, False), (None, "a", False)]
)
async def test_an_address_that_another_pod_has_by_now_gives_no_figures(host, expected, refused):
    """Engines of other runtimes do not name themselves, and a pod may choose its host's name."""
    with FakeEngine(waiting=3, host=host) as fake:
        engine = EnginePod("n", "a", "uid", f"http://{fake.address}:{fake.port}/metrics", {}, expected)
        async with aiohttp.ClientSession() as session:
            if refused:
                with pytest.raises(ScrapeError, match="given to another pod"):
                    await scrape(session, engine)
            else:
                assert (await scrape(session, engine))["vllm:num_requests_waiting"][0].value == 3
