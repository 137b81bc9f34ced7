"""Engines that do nothing but report their metrics, on loopback addresses of their own."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from octavo_testing.child_processes import free_port

LABELS = 'model_name="m",engine="0"'


@dataclass
class FakeEngine:
    """Answers GET /metrics while it is open; what it says may be changed at any time. A context manager."""

    waiting: float | None = 0
    running: float = 0
    kv_use: float = 0.0
    tokens: float = 0
    status: int = 200
    hangs: bool = False
    asked: int = 0
    text: str = ""  # in place of all the above
    host: str | None = None  # as it names itself
    port: int = 0  # 0: one that is free
    _go: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        # The whole of 127.0.0.0/8 is this machine: an address for each engine, as pods have.
        self.address = "127.{}.{}.{}".format(*(random.randrange(1, 255) for _ in range(3)))
        self.port = self.port or free_port()
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                engine.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((self.address, self.port), Handler)
        self._server.daemon_threads = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._go.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked += 1
        if self.hangs:
            self._go.wait(60)
            return
        body = (self.text or self.exposition()).encode()
        request.send_response(self.status)
        request.send_header("Content-Type", "text/plain; version=0.0.4")
        request.send_header("Content-Length", str(len(body)))
        if self.host is not None:
            request.send_header("X-Octavo-Host", self.host)
        request.end_headers()
        request.wfile.write(body)

    def exposition(self) -> str:
        lines = [
            "# HELP vllm:num_requests_running Requests in the batch.",
            "# TYPE vllm:num_requests_running gauge",
            f"vllm:num_requests_running{{{LABELS}}} {self.running}",
            f'vllm:num_requests_waiting_by_reason{{{LABELS},reason="capacity"}} 99.0',
            f"vllm:kv_cache_usage_perc{{{LABELS}}} {self.kv_use}",
            "# TYPE vllm:generation_tokens counter",
            f"vllm:generation_tokens_total{{{LABELS}}} {self.tokens}",
            f"vllm:generation_tokens_created{{{LABELS}}} 1.7e+09",
        ]
        if self.waiting is not None:
            lines.append(f"vllm:num_requests_waiting{{{LABELS}}} {self.waiting}")
        return "\n".join(lines) + "\n"
