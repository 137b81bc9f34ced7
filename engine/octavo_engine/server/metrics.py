"""The metrics of /metrics: vLLM's names, labels and buckets, including those that vLLM has since removed.

Fed by the engine client's events and by the core's statistics. Names and buckets are those of vLLM 0.32
(vllm/v1/metrics), the removed ones those of its releases up to 0.9; dashboards of either read them unchanged.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import product

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.exposition import ALLOWUTF8

from octavo_engine.config import CacheConfig
from octavo_engine.messages import EngineOutput, EngineRequest, PoolingRequest, Ready, SchedulerStats
from octavo_engine.server.batch_series import BatchSeries
from octavo_engine.server.cache_info import cache_info
from octavo_engine.server.http_series import HttpSeries
from octavo_engine.server.loop_watch import LoopWatch
from octavo_engine.server.open_request import OpenRequest
from octavo_engine.server.series import Counter, Histogram, gauge, one_two_five
from octavo_engine.server.tracing import Tracing

# fmt: off
FIRST_TOKEN_SECONDS = (.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640,
                       2560)
TOKEN_SECONDS = (.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
REQUEST_SECONDS = (.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
# fmt: on
ITERATION_TOKENS = (1, *(8 << i for i in range(12)))
NUM_CHOICES = (1, 2, 5, 10, 20)
NUM_PREEMPTIONS = (1, 2, 3, 4, 5, 10, 20)
# Labels of tool_call_parser_invocations
MODES, OUTCOMES = ("streaming", "non_streaming"), ("tool_call", "no_tool_call")
REQUEST_TYPES = ("chat_completions", "responses", "other")
# vLLM has these for every model, zero where there is no such cache.
NO_SUCH_CACHE = tuple(
    Counter(f"vllm:{cache}_{what}", f"{of} {how}: there is no such cache here.")
    for cache, of in (("external_prefix_cache", "Prompt tokens"), ("mm_cache", "Images and sounds"))
    for what, how in (("queries", "looked up"), ("hits", "found"))
)
THROUGHPUT_SECONDS = 10.0  # the window of the avg_*_throughput gauges


class Metrics:
    """An `Observer` of the engine client, and a prometheus-client collector."""

    def __init__(self, model_name: str) -> None:
        self._labels = {"model_name": model_name, "engine": "0"}
        self._model = {"model_name": model_name}
        self.asleep = False  # vLLM's level 1
        self._open_requests: dict[str, OpenRequest] = {}
        self._stats = SchedulerStats(
            num_running=0, num_waiting=0, kv_usage=0.0, prefix_cache_queries=0, prefix_cache_hits=0, num_preemptions=0
        )
        self._cache_info: dict[str, str] | None = None
        self._window: deque[tuple[float, float, float]] = deque()  # time, prompt and generation tokens until then
        self.num_http_requests = 0  # being served now, for /load
        self.max_adapters = 0  # in one step; 0: none are served
        self.adapter_name: Callable[[int], str | None] = lambda _adapter_id: None

        self.prompt_tokens = Counter("vllm:prompt_tokens", "Prompt tokens processed.")
        self.generation_tokens = Counter("vllm:generation_tokens", "Tokens generated.")
        self._by_source = Counter(
            "vllm:prompt_tokens_by_source",
            "Prompt tokens by where their KV came from.",
            "source",
            ("local_compute", "local_cache_hit", "external_kv_transfer"),
        )
        self._cached = Counter("vllm:prompt_tokens_cached", "Prompt tokens whose KV was cached.")
        self._cached_by_source = Counter(
            "vllm:prompt_tokens_cached_by_source",
            "Prompt tokens whose KV was cached, by where it was.",
            "source",
            ("device", "host", "p2p", "disk", "external_unspecified"),
        )
        self._success = Counter(
            "vllm:request_success",
            "Requests that ended, by reason.",
            "finished_reason",
            ("stop", "length", "abort", "error", "repetition"),
        )
        self._rejections = Counter(
            "vllm:admission_rejections",
            "Requests refused because a bound of the queue was reached.",
            "reason",
            ("max_num_queued_reqs", "max_num_queued_tokens"),
        )
        self._tool_calls = dict.fromkeys(product(MODES, OUTCOMES, REQUEST_TYPES), 0.0)
        tokens = tuple(one_two_five(2**17))
        self._prompt = Histogram("vllm:request_prompt_tokens", "Prompt tokens of a request.", tokens)
        self._generation = Histogram("vllm:request_generation_tokens", "Tokens generated for a request.", tokens)
        self._max_generation = Histogram(
            "vllm:request_max_num_generation_tokens", "Most tokens generated for a choice of a request.", tokens
        )
        self.max_tokens = Histogram("vllm:request_params_max_tokens", "The max_tokens of a request.", tokens)
        self._prefill_computed = Histogram(
            "vllm:request_prefill_kv_computed_tokens", "Prompt tokens computed, without those cached.", tokens
        )
        self._iteration = Histogram("vllm:iteration_tokens_total", "Tokens of a step.", ITERATION_TOKENS)
        self.num_choices = Histogram("vllm:request_params_n", "The n of a request.", NUM_CHOICES)
        self._preempted = Histogram("vllm:request_num_preemptions", "Preemptions of a request.", NUM_PREEMPTIONS)
        self._first = Histogram(
            "vllm:time_to_first_token_seconds", "From arrival to the first token.", FIRST_TOKEN_SECONDS
        )
        self._between = Histogram(
            "vllm:inter_token_latency_seconds", "From one token to the next of a request.", TOKEN_SECONDS
        )
        self._per_token = Histogram(
            "vllm:request_time_per_output_token_seconds", "Mean time per token after the first.", TOKEN_SECONDS
        )
        self._whole = Histogram("vllm:e2e_request_latency_seconds", "From arrival to the end.", REQUEST_SECONDS)
        self._queue = Histogram("vllm:request_queue_time_seconds", "Spent waiting.", REQUEST_SECONDS)
        self._inference = Histogram("vllm:request_inference_time_seconds", "Spent running.", REQUEST_SECONDS)
        self._prefill = Histogram("vllm:request_prefill_time_seconds", "Spent in prefill.", REQUEST_SECONDS)
        self._decode = Histogram("vllm:request_decode_time_seconds", "Spent in decode.", REQUEST_SECONDS)
        self.loop = LoopWatch()
        self.http = HttpSeries()
        self.batches = BatchSeries()
        self.tracing: Tracing | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def configure(self, cache: CacheConfig, ready: Ready) -> None:
        """Set the facts of the start, before anything is observed."""
        tokens = tuple(one_two_five(ready.max_model_len))
        for histogram in self._histograms()[:5]:
            histogram.rebuild(tokens)
        self._cache_info = cache_info(cache, ready)

    @property
    def stats(self) -> SchedulerStats:
        return self._stats

    # Events of the engine client

    def rejected(self, reason: str) -> None:
        self._rejections.add(1, reason)

    def arrived(self, request: EngineRequest | PoolingRequest) -> None:
        sampling = request.sampling if isinstance(request, EngineRequest) else None
        opened = OpenRequest(
            request.arrival_time, len(request.prompt_token_ids), sampling=sampling, in_background=request.background
        )
        if self.tracing is not None and not opened.in_background:
            self.tracing.arrived(opened)
        self._open_requests[request.request_id] = opened

    def output(self, output: EngineOutput, now: float) -> None:
        opened = self._open_requests.get(output.request_id)
        if opened is None:
            return
        count = len(output.new_token_ids)
        if count:
            if opened.in_background:
                if not opened.num_tokens:
                    self._prefilled(opened, output, now)
            elif opened.num_tokens:
                gap = (now - opened.last) / count
                for _ in range(count):
                    self._between.observe(gap)
            else:
                self._first.observe(now - opened.arrived)
                self._prefilled(opened, output, now)
            opened.last = now
            opened.num_tokens += count
            self.generation_tokens.values[""] += count
        elif output.pooled is not None:
            self._prefilled(opened, output, now)
            opened.last = now
        opened.num_preemptions = max(opened.num_preemptions, output.num_preemptions)

    def _prefilled(self, opened: OpenRequest, output: EngineOutput, now: float) -> None:
        opened.first = now
        opened.queued = output.queued_at or opened.arrived
        opened.scheduled = output.scheduled_at or opened.queued
        opened.num_cached = output.num_cached_tokens
        self.prompt_tokens.add(opened.num_prompt_tokens)
        self._by_source.add(opened.num_prompt_tokens - opened.num_cached, "local_compute")
        self._by_source.add(opened.num_cached, "local_cache_hit")
        self._cached.add(opened.num_cached)
        self._cached_by_source.add(opened.num_cached, "device")

    def finished(self, request_id: str, reason: str, now: float) -> None:
        opened = self._open_requests.pop(request_id, None)
        if opened is None or opened.in_background:
            return  # rows of a batch would say nothing of what clients wait for
        self._success.add(1, reason)
        if self.tracing is not None:
            self.tracing.ended(opened, reason, now)
        self._whole.observe(now - opened.arrived)
        self._prompt.observe(opened.num_prompt_tokens)
        self._generation.observe(opened.num_tokens)
        self._max_generation.observe(opened.num_tokens)
        self._preempted.observe(opened.num_preemptions)
        if not opened.first:
            return
        self._prefill_computed.observe(opened.num_prompt_tokens - opened.num_cached)
        self._queue.observe(max(0.0, opened.scheduled - opened.queued))
        self._prefill.observe(max(0.0, opened.first - opened.scheduled))
        self._inference.observe(max(0.0, opened.last - opened.scheduled))
        self._decode.observe(opened.last - opened.first)
        if opened.num_tokens > 1:
            self._per_token.observe((opened.last - opened.first) / (opened.num_tokens - 1))

    def tools_read(self, *, stream: bool, called: bool) -> None:
        """Count a choice of a chat in which calls were looked for."""
        self._tool_calls[MODES[not stream], OUTCOMES[not called], REQUEST_TYPES[0]] += 1

    def stepped(self, stats: SchedulerStats, now: float) -> None:
        self._stats = stats
        for count in stats.iteration_tokens:
            self._iteration.observe(count)
        if not self._window or now - self._window[-1][0] >= 1.0:
            self._window.append((now, self.prompt_tokens.values[""], self.generation_tokens.values[""]))
            while self._window[0][0] < now - THROUGHPUT_SECONDS:
                self._window.popleft()

    # What is asked for

    def throughput(self) -> tuple[float, float]:
        """Prompt and generation tokens a second, over the last ten seconds."""
        if not self._window:
            return 0.0, 0.0
        since, prompt, generation = self._window[0]
        seconds = max(1.0, time.monotonic() - since)
        return (
            (self.prompt_tokens.values[""] - prompt) / seconds,
            (self.generation_tokens.values[""] - generation) / seconds,
        )

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type, in the format that `accept` asks for."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # such as a version that is no number
            encode, content_type = choose_encoder("")
        if "openmetrics" in content_type:
            # Asked without an escaping, as Prometheus 2 asks, prometheus-client makes underscores of the colons.
            data = openmetrics.generate_latest(self._registry, ALLOWUTF8)  # type: ignore[no-untyped-call]
            return data, openmetrics.CONTENT_TYPE_LATEST
        return encode(self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        """All families, for prometheus-client."""
        labels, stats = self._labels, self._stats
        yield gauge("vllm:num_requests_running", "Requests in the batch.", stats.num_running, labels)
        yield gauge("vllm:num_requests_waiting", "Requests that wait for a place.", stats.num_waiting, labels)
        by_reason = gauge(
            "vllm:num_requests_waiting_by_reason",
            "Requests that wait, by reason.",
            stats.num_waiting,
            {**labels, "reason": "capacity"},
        )
        by_reason.add_metric([*labels.values(), "deferred"], 0)  # type: ignore[attr-defined]
        yield by_reason
        awake = {**labels, "sleep_state": "awake"}
        sleep = gauge("vllm:engine_sleep_state", "Whether it sleeps.", int(not self.asleep), awake)
        for state, value in (("weights_offloaded", int(self.asleep)), ("discard_all", 0)):
            sleep.add_metric([*labels.values(), state], value)  # type: ignore[attr-defined]
        yield sleep
        if self.max_adapters:
            yield self._adapter_requests(stats)
        yield gauge("vllm:kv_cache_usage_perc", "KV blocks in use, 0 to 1.", stats.kv_usage, labels)
        if self._cache_info is not None:
            yield gauge("vllm:cache_config_info", "The KV cache.", 1, {**self._cache_info, "engine": "0"})
        for name, documentation, count in (
            ("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", stats.prefix_cache_queries),
            ("prefix_cache_hits", "Prompt tokens found in the prefix cache.", stats.prefix_cache_hits),
            ("num_preemptions", "Preemptions.", stats.num_preemptions),
        ):
            yield _total(name, documentation, count, labels)
        for counter in (
            *(self.prompt_tokens, self.generation_tokens, self._by_source, self._cached, self._cached_by_source),
            *(self._success, *NO_SUCH_CACHE),
        ):
            yield counter.family(labels)
        yield self._rejections.family(self._model)
        calls = CounterMetricFamily(
            "vllm:tool_call_parser_invocations",
            "Choices in which tool calls were looked for.",
            labels=["model_name", "mode", "outcome", "request_type"],
        )
        for values, total in self._tool_calls.items():
            calls.add_metric([self._model["model_name"], *values], total)
        yield calls
        for histogram in self._histograms():
            yield histogram.family(labels)
        yield self.loop.delays.family(labels)
        yield from self.batches.collect(labels, stats)
        yield from self.http.collect()
        yield from self._removed(stats)

    def _adapter_requests(self, stats: SchedulerStats) -> Metric:
        """The adapters of requests, as labels; the value is the time, as in vLLM."""
        running, waiting = (
            ",".join(filter(None, map(self.adapter_name, ids)))
            for ids in (stats.running_adapters, stats.waiting_adapters)
        )
        labels = {
            "max_lora": str(self.max_adapters),
            "waiting_lora_adapters": waiting,
            "running_lora_adapters": running,
        }
        return gauge("vllm:lora_requests_info", "Adapters of running and of waiting requests.", time.time(), labels)

    def _histograms(self) -> tuple[Histogram, ...]:
        return (
            *(self._prompt, self._generation, self._max_generation, self.max_tokens, self._prefill_computed),
            *(self._iteration, self.num_choices, self._preempted, self._first, self._between, self._per_token),
            *(self._whole, self._queue, self._inference, self._prefill, self._decode),
        )

    def _removed(self, stats: SchedulerStats) -> Iterator[Metric]:
        """Names that vLLM has dropped and that dashboards still read."""
        labels = self._labels
        prompt, generation = self.throughput()
        rate = stats.prefix_cache_hits / stats.prefix_cache_queries if stats.prefix_cache_queries else 0.0
        gauges = {
            "gpu_cache_usage_perc": ("kv_cache_usage_perc", stats.kv_usage),
            "avg_prompt_throughput_toks_per_s": ("rate(prompt_tokens_total), here of 10 s", prompt),
            "avg_generation_throughput_toks_per_s": ("rate(generation_tokens_total), here of 10 s", generation),
            "gpu_prefix_cache_hit_rate": ("prefix_cache_hits_total by prefix_cache_queries_total", rate),
            "num_requests_swapped": ("nothing; requests whose KV blocks are in host memory", stats.num_swapped),
            "cpu_cache_usage_perc": ("nothing; KV blocks in use in host memory, 0 to 1", stats.swap_usage),
            "cpu_prefix_cache_hit_rate": ("nothing; always 0", 0),
        }
        for name, (successor, value) in gauges.items():
            yield gauge(f"vllm:{name}", f"Removed in vLLM, in favor of {successor}.", value, labels)
        for name, total in (("queries", stats.prefix_cache_queries), ("hits", stats.prefix_cache_hits)):
            text = f"Removed in vLLM, in favor of prefix_cache_{name}_total."
            yield _total(f"gpu_prefix_cache_{name}", text, total, labels)
        text = "Removed in vLLM, in favor of inter_token_latency_seconds."
        old = Histogram("vllm:time_per_output_token_seconds", text, self._between.bounds)
        old.counts, old.total = self._between.counts, self._between.total
        yield old.family(labels)


def _total(name: str, documentation: str, total: float, labels: dict[str, str]) -> Metric:
    counter = Counter(f"vllm:{name}", documentation)
    counter.add(total)
    return counter.family(labels)
