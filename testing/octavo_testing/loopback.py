"""A small HTTP server on loopback that stand-ins are built on: it keeps what it was asked, and can misbehave."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[None]:
    """The server answers, in a thread of its own."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Asked:
    """One request. Names of headers are written Like-This."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass
class Body:
    """The answer of a file's address, and the ways in which it goes wrong.

    `cut_after`: the connection ends after so many bytes, `cuts` times. `chunk` bytes are sent every `pause` seconds.
    `ranges`: whether a Range is honoured.
    """

    content: bytes
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    cuts: int = 0
    pause: float = 0.0
    chunk: int = 1 << 16
    ranges: bool = True


class LoopbackServer:
    """Answers through `answer`, which subclasses write. Use it as a context manager.

    `address` and `port`: where it listens, by default on a free port of loopback.
    """

    def __init__(self, address: str = "127.0.0.1", port: int = 0) -> None:
        self.asked: list[Asked] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                owner._handle(self)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                """Nothing is printed."""

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A client that goes away is part of the tests."""

        self._server = Server((address, port), Handler)
        host = f"[{address}]" if ":" in address else address
        self.url = f"http://{host}:{self._server.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator[Any]:
        with serving(self._server):
            yield self

    def answer(self, asked: Asked) -> tuple[int, Body]:
        """The status and the body for a request."""
        raise NotImplementedError

    def paths(self, method: str = "GET") -> list[str]:
        return [asked.path for asked in self.asked if asked.method == method]

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        headers = {name.title(): value for name, value in handler.headers.items()}
        asked = Asked(handler.command, handler.path, headers)
        self.asked.append(asked)
        status, body = self.answer(asked)
        content, first = body.content, 0
        wanted = asked.headers.get("Range", "")
        if body.ranges and wanted.startswith("bytes=") and status == 200:
            first = int(wanted[6:].partition("-")[0])
            if first >= len(content):
                status, content = 416, b""
            else:
                status, content = 206, content[first:]
        handler.send_response(status)
        for name, value in body.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        if status == 206:
            handler.send_header("Content-Range", f"bytes {first}-{len(body.content) - 1}/{len(body.content)}")
        handler.end_headers()
        if handler.command == "HEAD":
            return
        cut = body.cut_after if body.cuts > 0 else None
        if cut is not None:
            body.cuts -= 1
            content = content[:cut]
        for at in range(0, len(content), body.chunk):
            handler.wfile.write(content[at : at + body.chunk])
            if body.pause:
                handler.wfile.flush()
                time.sleep(body.pause)
        if cut is not None:
            handler.close_connection = True
