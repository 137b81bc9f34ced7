"""Runs `octavo up` as a process of its own, with an engine of the test's choice."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import time
import urllib.request
from pathlib import Path

FAKE_ENGINE = (str(Path(__file__).with_name("fake_engine.py")),)
REAL_ENGINE = ("-m", "octavo_engine")
RUNNER = """
import sys
from octavo_operator.settings import Settings
from octavo_operator.verbs.up_verb import main
settings = Settings(engine_command=(sys.executable, *{engine!r}), first_restart_pause_s=0.1)
sys.exit(main(sys.argv[1:], settings))
"""


def manifest(extra: str = "", documents: str = "", **engine_env: str) -> str:
    env = json.dumps([{"name": name, "value": value} for name, value in engine_env.items()])
    return f"""
apiVersion: octavo.dev/v1alpha1
kind: LLMService
metadata: {{name: svc}}
spec:
  model: {{uri: package://some_model}}
  engine: {{maxModelLen: 128, env: {env}}}
  accelerator: {{vendor: cpu}}
{textwrap.indent(textwrap.dedent(extra), "  ")}
{documents}"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Up:
    """A running `octavo up`."""

    def __init__(
        self, folder: Path, text: str, *arguments: str, env: dict[str, str] | None = None, engine=FAKE_ENGINE
    ) -> None:
        self.port = free_port()
        self.folder = folder
        (folder / "m.yaml").write_text(text)
        self.log = folder / "up.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    RUNNER.format(engine=engine),
                    "-f",
                    str(folder / "m.yaml"),
                    "--port",
                    str(self.port),
                    *arguments,
                ],
                stderr=log,
                stdout=log,
                env=os.environ | {"OCTAVO_CACHE": str(folder)} | (env or {}),
            )

    def ask(self, path: str, body: object = None, tls: ssl.SSLContext | None = None, **headers: str) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        scheme = "http" if tls is None else "https"
        request = urllib.request.Request(f"{scheme}://127.0.0.1:{self.port}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=20, context=tls) as response:
            return response.read()

    def about(self) -> dict:
        return json.loads(self.ask("/about", Authorization="Bearer k"))

    def wait_for(self, words: str, count: int = 1) -> None:
        deadline = time.monotonic() + 30
        while self.log.read_text().count(words) < count:
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.process.poll() is None or words in self.log.read_text(), self.log.read_text()
            time.sleep(0.02)

    def children(self) -> list[int]:
        return [
            int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ]

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(20), self.log.read_text()


def gone(pid: int) -> bool:
    """True if the process has ended; one that was not waited for yet counts as ended."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while not all(gone(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)
