"""OpenTelemetry spans of requests, sent by OTLP: one a sequence, under the span that the client's request names.

The name, kind and attributes are those of vLLM's `llm_request` span (vllm/tracing, semantic conventions for generative AI).
Needs the extra `octavo[otel]`; nothing of it is imported without `--otlp-traces-endpoint`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from octavo_engine.server.open_request import OpenRequest

TRACE_HEADERS = ("traceparent", "tracestate")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
HTTP = "http/protobuf"
LAST_SECONDS = 2.0  # for the spans that are left when the server ends


@dataclass(slots=True)
class Origin:
    """The HTTP request that starts sequences: its trace headers (W3C), its name once that is known, and its choices."""

    headers: Mapping[str, str]
    name: Callable[[], str]
    num_choices: int = 1  # of each prompt


ORIGIN: ContextVar[Origin | None] = ContextVar("origin", default=None)
"""The one that this task answers."""


def note_choices(count: int) -> None:
    """Note the choices of each prompt of the request that this task answers, before its sequences are sent."""
    origin = ORIGIN.get()
    if origin is not None:
        origin.num_choices = count


class Tracing:
    """Makes a span of each sequence that ends, and sends spans in batches from a thread of their own."""

    def __init__(self, endpoint: str) -> None:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 — an extra
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.trace import SpanKind  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        name = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "octavo"}
        self._provider = TracerProvider(resource=Resource.create(name), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_exporter(endpoint)))
        self._tracer = self._provider.get_tracer("octavo")
        self._propagator = TraceContextTextMapPropagator()
        self._kind = SpanKind.SERVER

    def arrived(self, opened: OpenRequest) -> None:
        """Note the name of the current request, and the context of its client's span."""
        origin = ORIGIN.get()
        if origin is not None:
            opened.name, opened.trace = origin.name, self._propagator.extract(origin.headers)
            opened.num_choices = origin.num_choices

    def ended(self, opened: OpenRequest, reason: str, now: float) -> None:
        """Send the span of a sequence that ended at `now`, of `time.monotonic()`."""
        end = time.time_ns()
        span = self._tracer.start_span(
            "llm_request", context=opened.trace, kind=self._kind, start_time=end - round((now - opened.arrived) * 1e9)
        )
        span.set_attributes(_attributes(opened, reason, now))
        span.end(end)

    def close(self) -> None:
        """Send what is left, within `LAST_SECONDS`."""
        self._provider.force_flush(round(LAST_SECONDS * 1000))
        self._provider.shutdown()


def _attributes(opened: OpenRequest, reason: str, now: float) -> dict[str, Any]:
    found: dict[str, Any] = {
        "gen_ai.request.id": "" if opened.name is None else opened.name(),
        "gen_ai.usage.prompt_tokens": opened.num_prompt_tokens,
        "gen_ai.usage.completion_tokens": opened.num_tokens,
        "gen_ai.latency.e2e": now - opened.arrived,
        "gen_ai.response.finish_reasons": [reason],
    }
    if opened.sampling is not None:
        found |= {
            "gen_ai.request.temperature": opened.sampling.temperature,
            "gen_ai.request.top_p": opened.sampling.top_p,
            "gen_ai.request.max_tokens": opened.sampling.max_tokens,
            "gen_ai.request.n": opened.num_choices,
        }
    if opened.first:
        found |= {
            "gen_ai.latency.time_to_first_token": opened.first - opened.arrived,
            "gen_ai.latency.time_in_queue": opened.scheduled - opened.queued,
            "gen_ai.latency.time_in_model_prefill": opened.first - opened.scheduled,
            "gen_ai.latency.time_in_model_decode": opened.last - opened.first,
            "gen_ai.latency.time_in_model_inference": opened.last - opened.scheduled,
        }
    return found


def _exporter(endpoint: str) -> Any:
    """Choose gRPC, as vLLM does, or HTTP by OpenTelemetry's own variables."""
    protocol = next((os.environ[name] for name in PROTOCOLS if os.environ.get(name)), "grpc")
    if protocol == HTTP:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter as HttpExporter,
        )

        return HttpExporter(endpoint=endpoint)
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter as GrpcExporter,
    )

    return GrpcExporter(endpoint=endpoint, insecure=not endpoint.startswith("https://"))
