"""Each request is a span at an OTLP receiver, under its client's own; logs are objects that carry the request's name."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest
from octavo_testing.served import Served
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from octavo_engine.cli import flag_values
from octavo_engine.cli.arguments import parse
from octavo_engine.errors import ConfigError
from octavo_engine.server.tracing import _exporter

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
LATER = "60000"  # ms between two batches: longer than the test, so that what arrives was sent at the server's end


class Receiver:
    """An OTLP receiver over HTTP, on loopback."""

    def __init__(self):
        self.spans, self.resources = [], []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                    receiver.resources.append(plain(group.resource.attributes))
                    receiver.spans += [span for scope in group.scope_spans for span in scope.spans]
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/traces"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def plain(attributes):
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@pytest.fixture(scope="module")
def run(fake_model):
    """A receiver and the log, after a server has answered three requests and was ended."""
    receiver = Receiver()
    flags = ["--otlp-traces-endpoint", receiver.url, "--log-format", "json"]
    flags += ["--enable-log-requests", "--enable-log-outputs", "--served-model-name", "fake"]
    env = {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf", "OTEL_BSP_SCHEDULE_DELAY": LATER}
    with Served(fake_model, *flags, env=env) as server:
        body = {"prompt": "hello", "max_tokens": 4, "temperature": 0.5, "seed": 1}
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "mine"}
        assert server.post("/v1/completions", body, headers=headers)[2]["x-request-id"] == "mine"
        assert server.post("/v1/completions", body)[0] == 200
        assert server.post("/v1/completions", {**body, "request_id": "in-the-body"})[0] == 200
        server.signal()
        assert server.wait() == 0
    receiver.close()
    return receiver, server.lines


def test_a_span_is_under_the_clients_own(run):
    """The next request of the same client, which names none, begins a trace of its own."""
    first, second, third = run[0].spans
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE, PARENT)
    assert second.parent_span_id == third.parent_span_id == b""
    assert len({first.trace_id, second.trace_id, third.trace_id}) == 3


def test_a_span_has_vllms_name_and_attributes(run):
    """Its times add up, and lie within the span."""
    span = run[0].spans[0]
    assert (span.name, span.kind) == ("llm_request", Span.SPAN_KIND_SERVER)
    seen = plain(span.attributes)
    assert seen["gen_ai.request.id"] == "mine"
    assert plain(run[0].spans[2].attributes)["gen_ai.request.id"] == "in-the-body"
    assert (seen["gen_ai.usage.completion_tokens"], seen["gen_ai.request.max_tokens"]) == (4, 4)
    assert (seen["gen_ai.usage.prompt_tokens"], seen["gen_ai.request.temperature"]) == (5, 0.5)
    parts = [seen[f"gen_ai.latency.{part}"] for part in ("time_in_queue", "time_in_model_inference", "e2e")]
    assert 0 <= parts[0] + parts[1] <= parts[2]
    assert parts[2] == pytest.approx((span.end_time_unix_nano - span.start_time_unix_nano) / 1e9, abs=1e-3)
    assert run[0].resources[0]["service.name"] == "octavo"


def test_each_line_of_the_log_is_an_object(run):
    """The start's progress, the URL and the drain are too; a request's lines have its name."""
    entries = [json.loads(line) for line in run[1]]
    assert all({"time", "level", "severity", "logger", "message"} <= entry.keys() for entry in entries)
    assert any(" is served at http://" in entry["message"] for entry in entries)
    named = [entry for entry in entries if "mine" in entry.get("request_id", "")]
    assert len(named) == 2  # what came in, and what was answered
    assert sum("in-the-body" in entry.get("request_id", "") for entry in entries) == 2


class GrpcReceiver(TraceServiceServicer):
    """An OTLP receiver over gRPC, on loopback."""

    def __init__(self):
        self.spans = []
        self.server = grpc.server(ThreadPoolExecutor(1))
        add_TraceServiceServicer_to_server(self, self.server)
        self.url = f"http://127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def Export(self, request, _context):  # noqa: N802 — the name in the protocol
        self.spans += [span for group in request.resource_spans for scope in group.scope_spans for span in scope.spans]
        return ExportTraceServiceResponse()


def test_spans_are_sent_by_grpc_unless_a_variable_says_otherwise(fake_model):
    """Each choice has a span, which says how many there are; the last ones are sent as the server ends."""
    receiver = GrpcReceiver()
    with Served(fake_model, "--otlp-traces-endpoint", receiver.url, env={"OTEL_BSP_SCHEDULE_DELAY": LATER}) as server:
        body = {"prompt": "hello", "max_tokens": 4, "n": 3, "seed": 1}
        assert server.post("/v1/completions", body)[0] == 200
        assert server.post("/v1/completions", body | {"n": 1})[0] == 200
        server.signal()
        assert server.wait() == 0
    receiver.server.stop(None).wait()
    assert [plain(span.attributes)["gen_ai.request.n"] for span in receiver.spans] == [3, 3, 3, 1]
    assert {span.name for span in receiver.spans} == {"llm_request"}


def test_the_protocol_is_vllms(monkeypatch):
    """OpenTelemetry's own variables choose the other one."""
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", raising=False)
    exporter = _exporter("http://127.0.0.1:4317")
    assert ".grpc." in type(exporter).__module__
    exporter.shutdown()


def test_without_the_extra_the_flag_is_refused_with_the_command(monkeypatch):
    """An image without it does not come up as if it traced."""
    monkeypatch.setattr(flag_values, "find_spec", lambda _module: None)
    with pytest.raises(ConfigError, match=r"--otlp-traces-endpoint.*pip install 'octavo\[otel\]'"):
        parse(["model", "--otlp-traces-endpoint", "http://collector:4317"])
    assert parse(["model", "--otlp-traces-endpoint="]).server.otlp_traces_endpoint is None
