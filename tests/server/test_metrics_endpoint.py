"""Dashboards made for vLLM find their series: today's names, and those that vLLM has removed."""

from __future__ import annotations

import pytest
from octavo_testing.served import Served, until
from prometheus_client.parser import text_string_to_metric_families

GAUGES = [
    "num_requests_running",
    "num_requests_waiting",
    "num_requests_waiting_by_reason",
    "kv_cache_usage_perc",
    "cache_config_info",
    "engine_sleep_state",
    "gpu_cache_usage_perc",
    "num_requests_swapped",
    "cpu_cache_usage_perc",
    "avg_prompt_throughput_toks_per_s",
    "avg_generation_throughput_toks_per_s",
    "gpu_prefix_cache_hit_rate",
]
COUNTERS = [
    "prompt_tokens",
    "generation_tokens",
    "prompt_tokens_by_source",
    "prompt_tokens_cached",
    "prompt_tokens_cached_by_source",
    "external_prefix_cache_queries",
    "external_prefix_cache_hits",
    "mm_cache_queries",
    "mm_cache_hits",
    "prefix_cache_queries",
    "prefix_cache_hits",
    "num_preemptions",
    "request_success",
    "admission_rejections",
    "gpu_prefix_cache_queries",
    "gpu_prefix_cache_hits",
]
HISTOGRAMS = [
    "request_prompt_tokens",
    "request_generation_tokens",
    "request_max_num_generation_tokens",
    "request_params_max_tokens",
    "request_prefill_kv_computed_tokens",
    "iteration_tokens_total",
    "request_params_n",
    "request_num_preemptions",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_time_per_output_token_seconds",
    "time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_inference_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
]


@pytest.fixture(scope="module")
def measured(fake_model):
    """A server that has answered a few requests: 10 of 12 prompt and 8 generated tokens each, one of them cached."""
    with Served(fake_model, "--served-model-name", "fake", step_seconds=0.01) as server:
        for i in range(10):
            body = {"prompt": f"prompt number{i % 9}", "max_tokens": 8, "seed": i}
            assert server.post("/v1/completions", body)[0] == 200
        yield server


@pytest.fixture(scope="module")
def families(measured):
    return {family.name: family for family in text_string_to_metric_families(measured.get("/metrics")[1])}


@pytest.mark.parametrize("name", [*GAUGES, *COUNTERS, *HISTOGRAMS])
def test_a_series_is_there_with_vllms_labels(families, name):
    """`model_name` and `engine`, but for the two that have labels of their own."""
    family = families[f"vllm:{name}"]
    assert family.type == ("gauge" if name in GAUGES else "counter" if name in COUNTERS else "histogram")
    labels = family.samples[0].labels
    if name not in {"cache_config_info", "admission_rejections"}:
        assert labels["model_name"] == "fake"
        assert labels["engine"] == "0"


def test_tokens_and_requests_are_counted(measured):
    """What the answers' usage says, summed."""
    assert measured.metric("vllm:prompt_tokens_total") == 140
    assert measured.metric("vllm:generation_tokens_total") == 80
    assert measured.metric("vllm:request_success_total", finished_reason="length") == 10
    assert measured.metric("vllm:prompt_tokens_cached_total") > 0
    sources = [
        measured.metric("vllm:prompt_tokens_by_source_total", source=s) for s in ("local_compute", "local_cache_hit")
    ]
    assert sum(sources) == 140


def test_times_are_observed_once_a_request_or_a_token(measured):
    """Their sums are consistent with each other."""
    assert measured.metric("vllm:time_to_first_token_seconds_count") == 10
    assert measured.metric("vllm:inter_token_latency_seconds_count") == 70
    assert measured.metric("vllm:e2e_request_latency_seconds_count") == 10
    whole = measured.metric("vllm:e2e_request_latency_seconds_sum")
    parts = sum(measured.metric(f"vllm:request_{part}_time_seconds_sum") for part in ("queue", "prefill", "decode"))
    assert 10 * 8 * 0.01 < parts <= whole
    assert measured.metric("vllm:time_per_output_token_seconds_count") == 70


@pytest.mark.parametrize(
    ("name", "first", "last", "count"),
    [
        ("time_to_first_token_seconds", "0.001", "2560.0", 23),
        ("inter_token_latency_seconds", "0.01", "80.0", 20),
        ("e2e_request_latency_seconds", "0.3", "7680.0", 22),
        ("iteration_tokens_total", "1.0", "16384.0", 14),
        ("request_prompt_tokens", "1.0", "200.0", 9),
        ("request_params_n", "1.0", "20.0", 6),
        ("request_num_preemptions", "1.0", "20.0", 8),
    ],
)
def test_buckets_are_vllms(families, name, first, last, count):
    """+Inf included; those of tokens end with the model's context."""
    bounds = [s.labels["le"] for s in families[f"vllm:{name}"].samples if s.name.endswith("_bucket")]
    assert (bounds[0], bounds[-2], bounds[-1], len(bounds)) == (first, last, "+Inf", count)


PROMETHEUS = {
    "2": "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "3": "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
}


@pytest.mark.parametrize("accept", PROMETHEUS.values(), ids=PROMETHEUS)
def test_prometheus_is_answered_in_openmetrics_with_vllms_names(measured, accept):
    """Whichever version asks: the colon is part of the name."""
    _, text, headers = measured.get("/metrics", headers={"Accept": accept})
    assert headers["content-type"].startswith("application/openmetrics-text")
    assert text.rstrip().endswith("# EOF")
    samples = [line for line in text.splitlines() if line.startswith("vllm")]
    assert samples
    assert all(line.startswith("vllm:") for line in samples)


def test_the_load_counts_requests_that_are_being_answered(measured):
    """vLLM's /load."""
    assert measured.get("/load")[1] == {"server_load": 0}


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=x.y", ";;;=", "*/*", "application/json"])
def test_an_odd_accept_header_is_answered_with_text(served, accept):
    """What a scraper asks for wrongly is no bug of the server."""
    status, text, headers = served.get("/metrics", headers={"Accept": accept})
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert "vllm:num_requests_running" in text


@pytest.mark.slow
def test_durations_do_not_follow_the_wall_clock(fake_model, tmp_path):
    """One that is set back would make a sum smaller, which readers take for a restart."""
    script = tmp_path / "serve.py"
    script.write_text(
        "import itertools, sys, time\n"
        "real, steps = time.time, itertools.count()\n"
        "time.time = lambda: real() - 3600 * next(steps)\n"
        "from octavo_engine.cli.arguments import parse\n"
        "from octavo_engine.cli.serve import serve\n"
        "sys.exit(serve(parse(sys.argv[1:]), loader='octavo_testing.fake_engine_loader:load'))\n"
    )
    with Served(fake_model, "--load-format", "dummy", "--max-model-len", "256", script=script) as server:
        for _ in range(3):
            assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 3})[0] == 200
        for name in ("e2e_request_latency", "time_to_first_token", "request_queue_time", "request_inference_time"):
            assert 0 <= server.metric(f"vllm:{name}_seconds_sum") < 600
            assert server.metric(f"vllm:{name}_seconds_count") == 3


def test_requests_are_counted_by_route_method_and_status(measured):
    """Names are those of prometheus-fastapi-instrumentator; a path without a route is none, probes are left out."""
    for _ in range(2):
        assert measured.get("/v1/models/unheard-of")[0] == 404
    assert measured.get("/nowhere/7")[0] == 404
    assert measured.get("/health")[0] == 200
    completions = {"handler": "/v1/completions", "method": "POST"}
    # An answer is counted behind its last byte.
    until(lambda: measured.metric("http_requests_total", **completions, status="2xx") == 10, 10)
    until(lambda: measured.metric("http_requests_total", handler="none") == 1, 10)
    assert measured.metric("http_requests_total", handler="/v1/models/{model}", status="4xx") == 2
    assert measured.metric("http_requests_total", handler="none", method="GET", status="4xx") == 1
    assert measured.metric("http_request_duration_seconds_count", **completions) == 10
    assert measured.metric("http_request_duration_highr_seconds_count") == measured.metric("http_requests_total")
    assert measured.metric("http_request_size_bytes_sum", handler="/v1/completions") > 10 * len('{"prompt": ""}')
    assert measured.metric("http_response_size_bytes_count", handler="/v1/completions") == 10
    assert "/health" not in measured.get("/metrics")[1]


def test_cached_tokens_come_from_the_device(measured):
    """No other cache holds any."""
    cached = measured.metric("vllm:prompt_tokens_cached_total")
    assert measured.metric("vllm:prompt_tokens_cached_by_source_total", source="device") == cached
    assert measured.metric("vllm:prompt_tokens_cached_by_source_total") == cached


def test_the_cache_s_labels_are_vllms(families):
    """Its fields by reflection: dashboards join by some of them."""
    labels = set(families["vllm:cache_config_info"].samples[0].labels)
    assert {
        "block_size",
        "num_gpu_blocks",
        "kv_cache_size_tokens",
        "mamba_cache_mode",
        "kv_offloading_backend",
    } <= labels
    assert "model_name" not in labels
