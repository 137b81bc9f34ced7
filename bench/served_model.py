"""One `octavo serve` for a measurement: a real model on a free port of loopback, ended with it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.cpu import BIN, free_port

START_SECONDS = 300.0


@dataclass(frozen=True)
class Server:
    """A running server: its address, where the model is called `model`, and its process."""

    url: str
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def served(model: str, *flags: str, max_model_len: int = 4096, kv_bytes: int = 512 << 20) -> Iterator[Server]:
    """A server that is ready. Exits with what it wrote where it does not start."""
    port = free_port()
    command = [str(BIN / "octavo"), "serve", model, "--served-model-name", "model", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--max-model-len", str(max_model_len), "--kv-cache-memory-bytes", str(kv_bytes)]
    with tempfile.NamedTemporaryFile() as log:
        process = subprocess.Popen([*command, *flags], stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            _wait(f"http://127.0.0.1:{port}", process, Path(log.name))
            yield Server(f"http://127.0.0.1:{port}", process)
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=60)
            if process.poll() is None:
                process.kill()
                process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    sys.exit("the server did not start:\n" + log.read_text())
