"""`make demo`: serve the sample manifest as local processes, ask it one question, stop it again.

The server's progress comes on standard error, and is held back while the answer is written: the two never mix.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
MANIFEST = "config/samples/smollm2.yaml"
QUESTION = "In two sentences: what is a Kubernetes Deployment good for?"
DEADLINE = 170.0  # seconds: the first run downloads the model


class Progress:
    """Passes a server's lines on to standard error, until one says that it serves (`sign`); the later ones wait for `release`."""

    def __init__(self, lines: IO[str], sign: str) -> None:
        self._lines, self._sign, self._served = lines, sign, False
        self._decided, self._released = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for line in self._lines:
            sys.stderr.write(line)
            sys.stderr.flush()
            if self._sign in line:
                self._served = True
                self._decided.set()
                self._released.wait()
        self._decided.set()  # the server has exited

    def wait(self, server: subprocess.Popen[str]) -> None:
        """Return once it serves. Exits with a sentence if it ends before, or takes too long."""
        if not self._decided.wait(DEADLINE):
            sys.exit(f"octavo up does not serve within {DEADLINE:.0f} s; its last lines say what it waits for")
        if not self._served:
            sys.exit(f"octavo up exited with code {server.wait()}; its last lines say why")

    def release(self) -> None:
        """Pass on what was held back, and what follows."""
        self._released.set()

    def close(self) -> None:
        self._thread.join(5)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def served(port: int) -> Iterator[None]:
    """`octavo up` of the manifest, serving; stopped at the end."""
    up = ["octavo", "up", "-f", MANIFEST, "--port", str(port)]
    print(f"$ {' '.join(up)}", flush=True)
    server = subprocess.Popen([str(BIN / up[0]), *up[1:]], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    progress = Progress(server.stderr, f" answers at http://127.0.0.1:{port}/")
    try:
        progress.wait(server)
        yield
    finally:
        progress.release()
        server.send_signal(signal.SIGINT)
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            server.kill()
        progress.close()


def main() -> int:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with served(port):
        print(f'\n$ octavo chat --base-url {url} --once "{QUESTION}"', flush=True)
        chat = [str(BIN / "octavo"), "chat", "--base-url", url, "--once", QUESTION]
        code = subprocess.run(chat, cwd=ROOT, check=False).returncode
    if code == 0:
        print(
            "\nThat was a real model behind the OpenAI API, from one manifest. Yours to keep running:\n"
            f"  .venv/bin/octavo up -f {MANIFEST}\n"
            "  .venv/bin/octavo chat"
        )
    return code


if __name__ == "__main__":
    sys.exit(main())
