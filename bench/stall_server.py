"""A server for `stall.py`: its processes, their memory, its event loop's delay, and what it answers."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

LIMIT_SECONDS = 60.0  # for one case
COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"
Answer = tuple[str, bool]  # what is shown, and whether it is as it should be
Attempt = Callable[["Server"], Answer]


@dataclass
class Server:
    """One running server, its processes, and where it listens."""

    process: subprocess.Popen[str]
    port: int
    pids: dict[int, str] = field(default_factory=dict)

    def look_for_processes(self) -> None:
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/children")  # each thread has those that it started
        children = [pid for thread in threads for pid in thread.read_text().split()]
        self.pids = {self.process.pid: "api"}
        for pid in map(int, children):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            self.pids[pid] = "core" if b"core_process" in command else "renderer"

    def reset_peaks(self) -> None:
        for pid in self.pids:
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peaks(self) -> dict[str, int]:
        """MiB by process."""
        found = {}
        for pid, name in self.pids.items():
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                found[name] = int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) // 1024
        return found

    def send(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> Answer:
        """One request; what it is answered, and whether that is allowed."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_SECONDS)
        try:
            connection.request("POST", path, body, headers or {})
            response = connection.getresponse()
            response.read()
        except OSError as error:
            return type(error).__name__, True
        finally:
            connection.close()
        status = response.status
        return str(status), status < 500 or (status == 503 and response.getheader("Retry-After") is not None)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT_SECONDS)


def loop_delays(server: Server) -> dict[float, float]:
    """The number of times that the event loop was at most so late; empty for a version that does not say."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT_SECONDS)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return {
        float(bound): float(count)
        for bound, count in re.findall(r'octavo:event_loop_delay_seconds_bucket\{.*?le="([^"]+)".*?\} (\S+)', text)
    }


def slowest(before: dict[float, float], after: dict[float, float]) -> str:
    """The bucket of the latest beat between both."""
    grown = {bound: count - before.get(bound, 0.0) for bound, count in after.items()}
    total = max(grown.values(), default=0.0)
    return next((f"≤ {bound:g} s" for bound, count in sorted(grown.items()) if count == total), "?") if total else "?"


def port_of(process: subprocess.Popen[str]) -> int:
    """Waits until a starting server prints its address, and ends the program with what it printed if it never does."""
    assert process.stdout is not None
    printed = []
    for line in process.stdout:
        printed.append(line)
        if " is served at " in line:
            return int(line.split(" is served at ")[1].split("/v1")[0].rpartition(":")[2])
    raise SystemExit("the server did not start:\n" + "".join(printed))


@contextlib.contextmanager
def serving(command: list[str]) -> Iterator[Server]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        port = port_of(process)
        # What else it says is read, so that it never waits, and shown.
        drain = subprocess.Popen(["cat"], stdin=process.stdout, stdout=sys.stderr)
        yield Server(process, port)
        process.terminate()
        drain.wait()
    finally:
        process.kill()
        process.wait()
