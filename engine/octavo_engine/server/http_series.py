"""The `http_*` series that vLLM's server has by prometheus-fastapi-instrumentator: requests by path, method and status.

Names, labels and buckets are those of its version 7 with vLLM's settings: statuses in groups, paths as routes are written,
and none of what balancers and scrapers ask for.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric

from octavo_engine.server.series import Histogram

# fmt: off
FINE_SECONDS = (.01, .025, .05, .075, .1, .25, .5, .75, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 7.5, 10, 30, 60)
# fmt: on
SECONDS = (0.1, 0.5, 1)
NOT_COUNTED = frozenset({"/metrics", "/health", "/load", "/ping", "/version", "/server_info"})
RESPONSE: web.RequestKey[web.StreamResponse] = web.RequestKey("response", web.StreamResponse)
UNKNOWN = "none"  # the path of what no route serves: one series, whatever strangers ask for


class HttpSeries:
    """Counts requests that have been answered, streams with their last byte."""

    def __init__(self) -> None:
        self._requests: defaultdict[tuple[str, str, str], int] = defaultdict(int)  # path, method, status
        self._sizes: dict[str, defaultdict[str, list[int]]] = {  # path to number and bytes
            kind: defaultdict(lambda: [0, 0]) for kind in ("request", "response")
        }
        self._seconds: dict[tuple[str, str], Histogram] = {}
        self._all_seconds = Histogram(
            "http_request_duration_highr_seconds", "Latency of all requests, in fine buckets.", FINE_SECONDS
        )

    def answered(self, path: str, method: str, status: int, seconds: float, sizes: tuple[int, int]) -> None:
        """Count a request: the path as its route is written, and the lengths of both bodies as their headers have them."""
        if path in NOT_COUNTED:
            return
        self._requests[path, method, f"{status // 100}xx"] += 1
        for kind, size in zip(self._sizes, sizes, strict=True):
            counted = self._sizes[kind][path]
            counted[0] += 1
            counted[1] += size
        self._all_seconds.observe(seconds)
        histogram = self._seconds.get((path, method))
        if histogram is None:
            histogram = self._seconds[path, method] = Histogram("http_request_duration_seconds", "", SECONDS)
        histogram.observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """All families, for prometheus-client."""
        requests = CounterMetricFamily(
            "http_requests", "Requests answered, by path, method and status.", labels=["handler", "method", "status"]
        )
        for (path, method, status), count in self._requests.items():
            requests.add_metric([path, method, status], count)
        yield requests
        for kind, sizes in self._sizes.items():
            name, text = f"http_{kind}_size_bytes", f"Length of the {kind}'s body as its header has it, by path."
            summary = SummaryMetricFamily(name, text, labels=["handler"])
            for path, (count, total) in sizes.items():
                summary.add_metric([path], count, total)
            yield summary
        yield self._all_seconds.family({})
        latency = HistogramMetricFamily(
            "http_request_duration_seconds", "Latency of requests, by path and method.", labels=["handler", "method"]
        )
        for (path, method), histogram in self._seconds.items():
            latency.add_metric([path, method], histogram.buckets(), histogram.total)
        yield latency


async def note_response(request: web.Request, response: web.StreamResponse) -> None:
    """Keep the answer that begins: its client may go away with its last byte, which cancels the handler."""
    request[RESPONSE] = response


async def counted(request: web.Request, handler: Handler, series: HttpSeries) -> web.StreamResponse:
    """Answer by `handler` and count it. One whose client goes away before any answer does not count."""
    begun = time.perf_counter()
    response: web.StreamResponse | None = None
    try:
        response = await handler(request)
        return response
    finally:
        answer = request.get(RESPONSE) if response is None else response
        if answer is not None:
            resource = None if request.match_info is None else request.match_info.route.resource
            path = UNKNOWN if resource is None else resource.canonical
            sizes = (request.content_length or 0, answer.content_length or 0)
            series.answered(path, request.method, answer.status, time.perf_counter() - begun, sizes)
