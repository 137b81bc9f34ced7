"""Clients that are slow, many, gone or stopped, and signals, for `stall.py`."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import struct
import time

from bench.stall_requests import chat
from bench.stall_server import COMPLETIONS, Answer, Attempt, Server


def unbounded(server: Server) -> Answer:
    """A chunked body that goes on until it is refused, of 64 MiB at most."""
    with server.connect() as connection:
        connection.sendall(f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        try:
            for _ in range(64):
                connection.sendall(b"100000\r\n" + b" " * 0x100000 + b"\r\n")
            return connection.recv(100).split(b"\r\n")[0].decode()[9:12], True
        except OSError as error:
            return type(error).__name__, True


def many_slow(server: Server) -> Answer:
    """400 connections that send a byte of their body now and then, and 100 that send nothing."""
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in range(500)]
        for connection in connections[:400]:
            connection.sendall(head)
        for _ in range(5):
            for connection in connections[:400]:
                connection.sendall(b" ")
            time.sleep(0.5)
    return "held", True


def deaf(server: Server) -> Answer:
    """50 streams that are never read."""
    body = json.dumps({"prompt": "hello", "max_tokens": 200, "stream": True, "logprobs": 5}).encode()
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.connect(("127.0.0.1", server.port))
            stack.enter_context(connection).sendall(head + body)
        time.sleep(4)
    return "held", True


def pipelined(server: Server) -> Answer:
    """300 requests in one write."""
    body = b'{"prompt": "a", "max_tokens": 1}'
    one = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    with server.connect() as connection:
        connection.sendall(one * 300)
        return connection.recv(100).split(b"\r\n")[0].decode()[9:12], True


def tiny_chunks(server: Server) -> Answer:
    """A body of 300,000 chunks of a byte."""
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    with server.connect() as connection:
        try:
            connection.sendall(head + b"1\r\n \r\n" * 300_000)
            return connection.recv(100).split(b"\r\n")[0].decode()[9:12], True
        except OSError as error:
            return type(error).__name__, True


def thousands(server: Server) -> Answer:
    """Open as many connections as this process may hold, 10,000 at most, half of which trickle a head."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(10_000, hard - 200)
    try:
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(server.connect()) for _ in range(count)]
            for byte in (b"G", b"E", b"T", b" "):
                for connection in connections[::2]:
                    connection.sendall(byte)
                time.sleep(0.5)
            return f"{count} held", True
    except OSError as error:
        return type(error).__name__, True
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def stopped_clients(server: Server) -> Answer:
    """20 clients in a process that is stopped in the middle of their streams."""
    body = json.dumps({"prompt": "hello", "max_tokens": 300, "stream": True}).encode()
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    child = os.fork()
    if child == 0:
        held = [server.connect() for _ in range(20)]
        for connection in held:
            connection.sendall(head + body)
        while True:
            time.sleep(60)
    time.sleep(1)
    os.kill(child, signal.SIGSTOP)
    time.sleep(4)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "held", True


def endless(*fields: bytes) -> Attempt:
    """A body of a gigabyte by its headers, which is sent until it is refused."""

    def attempt(server: Server) -> Answer:
        with server.connect() as connection:
            connection.sendall(
                f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\n".encode() + b"\r\n".join([*fields, b"", b""])
            )
            try:
                for _ in range(64):
                    connection.sendall(b" " * 2**20)
            except OSError:
                pass
            try:
                return connection.recv(100).split(b"\r\n")[0].decode()[9:12] or "closed", True
            except OSError as error:
                return type(error).__name__, True

    return attempt


def unread_chunks(server: Server) -> Answer:
    """A body of 600,000 chunks of a byte where no body is read."""
    with server.connect() as connection:
        try:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            connection.sendall(b"1\r\n \r\n" * 600_000 + b"0\r\n\r\n")
            return connection.recv(100).split(b"\r\n")[0].decode()[9:12], True
        except OSError as error:
            return type(error).__name__, True


def at_once(count: int, path: str, body: bytes | None = None) -> Attempt:
    """Send many small requests that arrive together, each over a connection of its own."""
    method, data = ("GET", b"") if body is None else ("POST", body)
    request = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data

    def attempt(server: Server) -> Answer:
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(server.connect()) for _ in range(count)]
            for connection in connections:
                connection.sendall(request)
            answers = {connection.recv(12)[9:12].decode() for connection in connections}
        return "/".join(sorted(answers)), not any(answer.startswith("5") for answer in answers)

    return attempt


def resets(server: Server) -> Answer:
    """100 streams whose clients reset their connections."""
    body = json.dumps({"prompt": "hello", "max_tokens": 300, "stream": True}).encode()
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    connections = [server.connect() for _ in range(100)]
    for connection in connections:
        connection.sendall(head + body)
    time.sleep(1)
    for connection in connections:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    return "reset", True


def with_renderers(number: signal.Signals) -> Attempt:
    """A chat of 200 KB to a renderer that has just got a signal."""

    def attempt(server: Server) -> Answer:
        for pid in [pid for pid, name in server.pids.items() if name == "renderer"]:
            os.kill(pid, number)
        return chat(messages=[{"role": "user", "content": "a" * 200_000}])(server)

    return attempt


def clients() -> dict[str, Attempt]:
    """The clients by name."""
    return {
        "a body without an end": unbounded,
        "a body of 1 GB": endless(b"Content-Length: 1000000000"),
        "a body of tiny chunks": tiny_chunks,
        "slow connections": many_slow,
        "10,000 connections": thousands,
        "clients that are stopped": stopped_clients,
        "readers that do not read": deaf,
        "300 pipelined requests": pipelined,
        "unread chunks of a byte": unread_chunks,
        "500 scrapes at once": at_once(500, "/metrics"),
        "1,000 texts to /tokenize at once": at_once(
            1000, "/tokenize", json.dumps({"prompt": "hello " * 1300}).encode()
        ),
        "1,000 completions at once": at_once(1000, COMPLETIONS, b'{"prompt": "a", "max_tokens": 1}'),
        "streams that are reset": resets,
        "a renderer that was killed": with_renderers(signal.SIGKILL),
        "a renderer that was stopped": with_renderers(signal.SIGSTOP),
    }
