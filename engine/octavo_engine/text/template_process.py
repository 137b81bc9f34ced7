"""The process that renders chat templates, as its owner sees it: started when needed, ended when it takes too long."""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from octavo_engine.errors import RequestError

WORKER = Path(__file__).with_name("template_worker.py")
LENGTH = struct.Struct(">I")
MEMORY_BYTES = 1 << 30  # of address space, jinja2 and the interpreter included
START_SECONDS = 120.0  # for the interpreter and jinja2, where the CPU is scarce: no template's fault
KILL_AFTER = 2.0  # seconds past the deadline: the worker ends itself, this is for one that was stopped
# What a template has no use for, such as keys and tokens, is not handed on.
ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "VIRTUAL_ENV")


class TemplateProcess:
    """Answers one request at a time; thread-safe. Restarted by the next request after one that it did not survive."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_up = False

    def start(self) -> None:
        """Start the process ahead of the first request, which then need not wait for it."""
        with self._lock:
            self._running()

    def ask(self, request: dict[str, Any], param: str) -> dict[str, Any]:
        """The worker's reply. Raises RequestError naming `param` for a template that fails or takes too long."""
        # Escapes would be several times as many bytes; half of a surrogate pair passes, and is refused with the text.
        try:
            body = json.dumps({**request, "seconds": self._seconds}, ensure_ascii=False).encode(
                "utf-8", "surrogatepass"
            )
        except RecursionError:
            raise RequestError(f"{param} nests too deeply: send it with fewer levels", param) from None
        with self._lock:
            reply = self._reply(body, param, again=True)
        if "error" in reply:
            raise RequestError(reply["error"], param)
        return reply

    def _reply(self, body: bytes, param: str, *, again: bool) -> dict[str, Any]:
        """The process's answer. Asks another one, once, where it was ended or stopped from outside: no request's fault."""
        process = self._running()
        try:
            if not self._is_up:
                assert process.stdout is not None
                _read(process.stdout, 1, time.monotonic() + START_SECONDS)
                self._is_up = True
            return _exchange(process, body, time.monotonic() + self._seconds + KILL_AFTER)
        except (TimeoutError, EOFError, BrokenPipeError) as error:
            late = isinstance(error, TimeoutError)
        _end(process)
        self._process = None
        if process.returncode == -signal.SIGALRM:  # its own
            raise RequestError(f"the chat template did not render within {self._seconds:g} s and was ended", param)
        if again:
            return self._reply(body, param, again=False)
        if late:
            raise RequestError("the process that renders chat templates does not answer: try again", param, status=503)
        raise RequestError(f"the chat template ended its process with status {process.returncode}", param)

    def close(self) -> None:
        """End the process; a later request starts it again."""
        with self._lock:
            if self._process is not None:
                _end(self._process)
                self._process = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:  # it has died since: no request's fault
            _end(self._process)
            self._process = None
        if self._process is None:
            self._is_up = False
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(WORKER), str(MEMORY_BYTES)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
                start_new_session=True,  # a Ctrl-C in the terminal is not for it; it ends with our pipe
            )
        return self._process


def _exchange(process: subprocess.Popen[bytes], body: bytes, deadline: float) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    _write(process.stdin, LENGTH.pack(len(body)) + body, deadline)
    head = _read(process.stdout, LENGTH.size, deadline)
    reply: dict[str, Any] = json.loads(_read(process.stdout, LENGTH.unpack(head)[0], deadline))
    return reply


def _write(stream: IO[bytes], data: bytes, deadline: float) -> None:
    """Raises BrokenPipeError if the process ended, TimeoutError past the deadline."""
    os.set_blocking(stream.fileno(), False)
    poll = select.poll()
    poll.register(stream, select.POLLOUT)
    left = memoryview(data)
    while left:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
        left = left[os.write(stream.fileno(), left) :]


def _read(stream: IO[bytes], count: int, deadline: float) -> bytes:
    """Exactly `count` bytes. Raises EOFError if the process ended, TimeoutError past the deadline."""
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    data = bytearray()
    while len(data) < count:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
        piece = os.read(stream.fileno(), min(count - len(data), 1 << 20))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


def _end(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            try:
                stream.close()
            except BrokenPipeError:
                continue
    try:
        process.wait(0.5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
