"""Clients that are slow, many, gone or stopped, and signals, for `stall.py`."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import time

from stall_requests import chat
from stall_server import COMPLETIONS, Answer, Attempt, Server


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
    """50 streams that nobody reads."""
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
    """As many connections as this process may hold, 10,000 at most, half of which trickle a head."""
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


def stopped_renderer(server: Server) -> Answer:
    """The renderer's process stops while a chat is rendered, and another follows."""
    for pid in [pid for pid, name in server.pids.items() if name == "renderer"]:
        os.kill(pid, signal.SIGKILL)
    return chat()(server)


def clients() -> dict[str, Attempt]:
    """By name."""
    return {
        "a body without an end": unbounded,
        "a body of 1 GB": endless(b"Content-Length: 1000000000"),
        "a body of tiny chunks": tiny_chunks,
        "slow connections": many_slow,
        "10,000 connections": thousands,
        "clients that are stopped": stopped_clients,
        "readers that do not read": deaf,
        "300 pipelined requests": pipelined,
        "a renderer that was killed": stopped_renderer,
    }
