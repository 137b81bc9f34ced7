"""`make demo`: serve the sample manifest as local processes, ask it one question, stop it again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
MANIFEST = "config/samples/smollm2.yaml"
QUESTION = "In two sentences: what is a Kubernetes Deployment good for?"
DEADLINE = 170.0  # seconds: the first run downloads the model


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        if server.poll() is not None:
            sys.exit(f"octavo up ended with exit code {server.returncode}; its last lines say why")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    server.terminate()
    sys.exit(f"no answer from {url}/health within {DEADLINE:.0f} s")


def main() -> int:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    up = [str(BIN / "octavo"), "up", "-f", MANIFEST, "--port", str(port)]
    print(f"$ octavo {' '.join(up[1:])}", flush=True)
    server = subprocess.Popen(up, cwd=ROOT)
    try:
        wait_until_ready(url, server)
        chat = ["chat", "--base-url", url, "--once", QUESTION]
        print(f'\n$ octavo chat --base-url {url} --once "{QUESTION}"', flush=True)
        code = subprocess.run([str(BIN / "octavo"), *chat], cwd=ROOT, env=os.environ, check=False).returncode
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            server.kill()
    if code == 0:
        print(
            "\nThat was a real model behind the OpenAI API, from one manifest. Yours to keep running:\n"
            f"  .venv/bin/octavo up -f {MANIFEST}\n"
            "  .venv/bin/octavo chat"
        )
    return code


if __name__ == "__main__":
    sys.exit(main())
