"""Processes that end with the one that started them, however that one ends."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Asks the kernel for a SIGKILL at the parent's death, and becomes the command. An exec keeps that setting, and unlike
# `preexec_fn` nothing of ours runs between fork and exec in a process with threads.
LAUNCHER = """
import os, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 9)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent process has ended")
os.execv(sys.argv[2], sys.argv[2:])
"""
# Below Linux' and macOS' ephemeral ports, so that no outgoing connection takes one while its server restarts.
PORTS = range(20000, 32000)

# The kernel takes the thread that forked for the parent, so one that lives as long as this process has to do it.
_spawner = ThreadPoolExecutor(1, thread_name_prefix="child-processes")


class ChildProcess:
    """A command whose output goes to a file; it can be started again after it ended."""

    def __init__(self, name: str, argv: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.argv = [str(part) for part in argv]
        self.log = log
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert not self.running, f"{self.name} is running already"
        self._process = _spawner.submit(self._spawn).result()

    def _spawn(self) -> subprocess.Popen[bytes]:
        launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid())]
        with self.log.open("ab") as log:
            # A session of its own: an interrupt at the keyboard reaches the tests, which then end their children.
            return subprocess.Popen(
                [*launcher, *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    def send(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def end(self, number: int = signal.SIGKILL, seconds: float = 10.0) -> None:
        """End it by a signal; by SIGKILL if it takes longer than these seconds."""
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def last_lines(self, count: int = 30) -> str:
        """The end of what it has said."""
        if not self.log.exists():
            return "(no output)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])


def free_port() -> int:
    """A port on loopback that nothing listens on now; another process may still be quicker."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
