"""Starts the engine's processes and watches that they are alive. Imports nothing heavy, because it runs first.

One process for each rank of this machine; rank 0's is the engine core. Owns the processes, the private folder of the
core's socket until the core is connected, and the socket where ranks meet.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from octavo_engine.config import EngineConfig, ParallelConfig, ServerConfig
from octavo_engine.errors import ConfigError
from octavo_engine.heartbeat import Heartbeat
from octavo_engine.messages import LOST_TOUCH
from octavo_engine.signals import sigusr1_held_back

SOCKET_NAME = "engine"
MAX_SOCKET_PATH = 100  # sun_path holds 108 bytes on Linux
MAX_LAST_WORDS = 65536
LOST_EACH_OTHER = "the ranks lost touch with each other: one of them hangs, or one on another node has ended"


@dataclass(slots=True)
class RankProcess:
    """One rank. `alive` is a pipe that ends when the process does, and brings its last words before."""

    name: str  # for people
    process: subprocess.Popen[bytes]
    alive: int
    words: bytes = b""

    def end(self) -> str | None:
        """The process's end, in words; None if it runs, or ended only for its lost connection to another rank."""
        with contextlib.suppress(BlockingIOError):
            self.words += os.read(self.alive, MAX_LAST_WORDS)
        code = self.process.poll()
        if code is None or code == LOST_TOUCH:
            return None
        if self.words:
            return f"{self.name}: {self.words.decode(errors='replace')}"
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return f"{self.name} ended unexpectedly ({how})"


class CoreHandle:
    """The processes that `start` has started, in the order of their ranks; the first is the core where there is one."""

    def __init__(self, ranks: list[RankProcess], folder: Path) -> None:
        self.ranks = ranks
        self.folder = folder
        self._ended: list[RankProcess] = []
        self.heartbeat = Heartbeat.create()

    @classmethod
    def start(cls, config: EngineConfig, loader: str | None = None) -> CoreHandle:
        """Start the ranks of this machine with `config`; they load while the caller continues.

        `loader` is `module:function`, in place of the one that reads the model: for tests.

        Raises:
            ConfigError: no folder for the socket can be made, or the ranks can't meet where they should.
        """
        config = msgspec.structs.replace(config, server=ServerConfig())
        boot: dict[str, object] = {"started_at": time.time()} | ({"loader": loader} if loader is not None else {})
        handle = cls([], private_folder())
        listener = None
        try:
            if config.parallel.world_size > 1 and config.parallel.node_rank == 0:
                listener = _listen(config.parallel)
            for rank in config.parallel.ranks_here:
                handle.ranks.append(_start(rank, _at(config, listener, rank), boot, handle))
        except BaseException:
            handle.close(timeout=0)
            raise
        finally:
            if listener is not None:
                listener.close()
        return handle

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The engine core's."""
        return self.ranks[0].process

    @property
    def address(self) -> str:
        return f"ipc://{self.folder / SOCKET_NAME}"

    def note_end(self, rank: RankProcess) -> None:
        """The pipe of `rank` has ended. To be called in the order in which pipes do: epoll reports it."""
        self._ended.append(rank)

    def cause(self) -> str | None:
        """The cause of the engine's end: the rank that was the first to end by itself, in words. None while none has.

        The other ranks end soon after it, and some of them by an abort that looks like a cause.
        """
        for rank in self._ended:
            how = rank.end()
            if how is not None or rank.process.poll() is None:  # its pipe ends a moment before the process does
                return how
        return next((how for rank in self.ranks if (how := rank.end()) is not None), None)

    def remove_folder(self) -> None:
        """Once both sides are connected, or when it is over: the name of the socket is needed no longer."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self) -> None:
        """End all ranks at once, whatever they do, and leave nothing behind."""
        for rank in self.ranks:
            rank.process.kill()
        self.remove_folder()

    def close(self, timeout: float = 5.0) -> int:
        """Wait for the processes, kill those that stay, and clean up. Returns the core's exit code (negative: its signal).

        If one has failed, the others are not waited for.
        """
        end = time.monotonic() + timeout
        for rank in self.ranks:
            assert rank.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                rank.process.stdin.close()
        for rank in self.ranks:
            try:
                failed = any(r.process.poll() for r in self.ranks)
                rank.process.wait(0.0 if failed else max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                rank.process.kill()
                rank.process.wait()
            if rank.alive >= 0:
                os.close(rank.alive)
                rank.alive = -1
        self.remove_folder()
        return self.ranks[0].process.returncode if self.ranks else 0


def _start(rank: int, config: EngineConfig, boot: dict[str, object], handle: CoreHandle) -> RankProcess:
    """Start one process; `boot` is what a core receives in addition to its configuration."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    fds = [write_end]
    if config.parallel.listen_fd is not None:
        fds.append(config.parallel.listen_fd)
    if rank == 0:
        arguments = ["octavo_engine.engine.core_process", handle.address, str(os.getpid())]
        fds.append(handle.heartbeat.fd)
        message = boot | {"config": config, "heartbeat_fd": handle.heartbeat.fd}
    else:
        arguments = ["octavo_engine.engine.rank_process", str(os.getpid())]
        message = {"config": config, "rank": rank, "words": write_end}
    with sigusr1_held_back():
        process = subprocess.Popen([sys.executable, "-P", "-m", *arguments], stdin=subprocess.PIPE, pass_fds=fds)
    os.close(write_end)
    assert process.stdin is not None
    data = msgspec.msgpack.encode(message)
    with contextlib.suppress(BrokenPipeError):  # it died at once; `alive` shows that
        process.stdin.write(len(data).to_bytes(4, "big") + data)
        process.stdin.flush()
    size = config.parallel.world_size
    return RankProcess("the engine core" if size == 1 else f"rank {rank} of {size}", process, read_end)


def _at(config: EngineConfig, listener: socket.socket | None, rank: int) -> EngineConfig:
    """`config` with the place where ranks really meet; the first of them serves it."""
    if listener is None:
        return config
    parallel = msgspec.structs.replace(
        config.parallel,
        master_addr=listener.getsockname()[0],
        master_port=listener.getsockname()[1],
        listen_fd=listener.fileno() if rank == 0 else None,
    )
    return msgspec.structs.replace(config, parallel=parallel)


def _listen(parallel: ParallelConfig) -> socket.socket:
    """The socket where ranks meet: on one machine, any port of the loopback, which no other machine reaches."""
    address, port = ("127.0.0.1", 0) if parallel.nnodes == 1 else (parallel.master_addr, parallel.master_port)
    try:
        family, _, _, _, target = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(target)
            listener.listen(2 * parallel.world_size)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"--master-addr {address} --master-port {port}: the ranks can't meet there: {error.strerror}; on the node "
            "of --node-rank 0, it must be an address of this machine and a free port"
        ) from error
    return listener


def private_folder() -> Path:
    """A new folder that only this user can enter, short enough for a socket's path."""
    for base in dict.fromkeys((os.environ.get("TMPDIR") or "/tmp", "/tmp", "/dev/shm")):  # noqa: S108 — mkdtemp makes it private
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
