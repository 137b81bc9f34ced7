"""HTTP as bytes, for what no client library would send."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """The bytes that came back until the server closed the connection."""

    version: str
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error, whose shape is OpenAI's."""
        content = json.loads(self.body)
        assert set(content) == {"error"}
        assert set(content["error"]) == {"message", "type", "param", "code"}
        assert self.headers["content-type"] == "application/json"
        return content["error"]


def connect(server, timeout: float = 20.0) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=timeout)


def exchange(server, *parts: bytes) -> Answer:
    """Send `parts`, each as a segment of its own, and read until the server closes the connection."""
    with connect(server) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            connection.sendall(part)
        return read_answer(connection)


def read_answer(connection: socket.socket) -> Answer:
    data = b""
    while part := connection.recv(65536):
        data += part
    return parse(data)


def parse(data: bytes) -> Answer:
    while data.startswith(b"HTTP/1.1 100 "):
        data = data.partition(b"\r\n\r\n")[2]
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    version, status, _ = first.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(version, int(status), headers, body)


def post(path: str, body: Any, *headers: str, version: str = "1.1", host: str | None = "x") -> bytes:
    """The bytes of a POST whose answer ends the connection."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/{version}", f"Content-Length: {len(data)}", *headers]
    if host is not None:
        lines.append(f"Host: {host}")
    if version == "1.1":
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + data


def chunks_of(text: str) -> list[dict[str, Any]]:
    """The chunks of a whole stream, cut into lines as Python cuts them."""
    lines = [line for line in text.splitlines() if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines), lines
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
