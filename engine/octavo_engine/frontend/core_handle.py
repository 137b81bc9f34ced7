"""Starts the engine core's process and knows whether it lives. Imports nothing heavy: it is the first thing to run.

Owns the process, and the private folder of the socket until the core is connected. Knows nothing of requests.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from octavo_engine.config import EngineConfig, ServerConfig
from octavo_engine.errors import ConfigError

SOCKET_NAME = "engine"
MAX_SOCKET_PATH = 100  # sun_path holds 108 bytes on Linux


class CoreHandle:
    """One core process, started by `start`. `alive` is a pipe that ends when the process does."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, alive: int) -> None:
        self.process = process
        self.folder = folder
        self.alive = alive

    @classmethod
    def start(cls, config: EngineConfig, loader: str | None = None) -> CoreHandle:
        """Start the process and hand it `config`; it loads while the caller goes on.

        `loader` is `module:function`, in place of the one that reads the model: for tests.
        """
        folder = _private_folder()
        read_end, write_end = os.pipe()
        boot: dict[str, object] = {
            "config": msgspec.structs.replace(config, server=ServerConfig()),
            "started_at": time.time(),
        }
        if loader is not None:
            boot["loader"] = loader
        data = msgspec.msgpack.encode(boot)
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "octavo_engine.core_process",
                f"ipc://{folder / SOCKET_NAME}",
                str(os.getpid()),
            ],
            stdin=subprocess.PIPE,
            pass_fds=(write_end,),
        )
        os.close(write_end)
        os.set_blocking(read_end, False)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once; `alive` tells
            process.stdin.write(len(data).to_bytes(4, "big") + data)
            process.stdin.flush()
        return cls(process, folder, read_end)

    @property
    def address(self) -> str:
        return f"ipc://{self.folder / SOCKET_NAME}"

    def remove_folder(self) -> None:
        """Once both sides are connected, or when it is over: the name of the socket is needed no longer."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self, timeout: float = 5.0) -> int:
        """Wait for the process, kill it if it stays, tidy up; its exit code (negative: the signal that ended it)."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.remove_folder()
        if self.alive >= 0:
            os.close(self.alive)
            self.alive = -1
        return code


def _private_folder() -> Path:
    """A new folder that only this user can enter, short enough for a socket's path."""
    for base in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/dev/shm")):  # noqa: S108 — mkdtemp makes it private
        if len(base) + len("/octavo-xxxxxxxx/") + len(SOCKET_NAME) > MAX_SOCKET_PATH:
            continue
        try:
            return Path(tempfile.mkdtemp(prefix="octavo-", dir=base))
        except OSError:
            continue
    raise ConfigError(
        "no folder for the engine's socket: neither TMPDIR nor /tmp can be written with a short path; "
        "set TMPDIR to one that can"
    )
