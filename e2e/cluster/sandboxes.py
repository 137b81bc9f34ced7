"""Sandboxes: a process in namespaces of its own, in which everything of a node runs, and ends.

The first process of a PID namespace is its init: when it is killed, the kernel kills all others in there, and with the
last of them go the mounts, devices, routes and rules of their namespaces. So a sandbox leaves nothing whatever happened
in it, and needs no list of what to undo. Processes are found by a variable in their environment, never by a pid that
was written down: the pid may be another's by now, and its writer may have been killed before.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MARK = "OCTAVO_CLUSTER_PROCESS"  # CLUSTER/SANDBOX/COMMAND
# SIGCHLD stays ignored across the exec, and so the kernel reaps what is orphaned into the sandbox.
INIT = ["sh", "-c", "trap '' CHLD; exec sleep infinity"]
START_SECONDS = 10.0


class SandboxError(Exception):
    """A sandbox, or a command in it, did not do what it should."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process that bears a mark. `inner_pid` is its pid inside its PID namespace."""

    pid: int
    sandbox: str
    command: str
    inner_pid: int
    argv: tuple[str, ...]

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class Sandbox:
    """The namespaces `name` of a cluster; with `network` they have devices of their own, else the host's."""

    def __init__(self, cluster: str, name: str, *, network: bool = True) -> None:
        self.cluster = cluster
        self.name = name
        self.network = network

    def start(self) -> int:
        """Make the namespaces, unless they are there; the pid of their init. Mounts in there don't reach the host."""
        found = self.init()
        if found:
            return found
        own = ["--pid", "--fork", "--kill-child=KILL", "--mount", "--mount-proc", "--uts", "--propagation", "slave"]
        self._detach("init", ["unshare", *own, *(["--net"] if self.network else []), "--", *INIT], Path(os.devnull))
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            found = self.init()
            if found:
                return found
            time.sleep(0.02)
        raise SandboxError(f"the namespaces of {self.name} were not made in {START_SECONDS:g} s")

    def init(self) -> int | None:
        """The pid of the sandbox's first process, as the host sees it."""
        for process in self.processes():
            if process.command == "init" and process.inner_pid == 1 and process.argv[:1] == ("sleep",):
                return process.pid
        return None

    def processes(self) -> list[Process]:
        return [process for process in processes(self.cluster) if process.sandbox == self.name]

    def daemon(self, command: str) -> Process | None:
        """The running one that `spawn` started under this name."""
        for process in self.processes():
            if process.command == command and process.argv and Path(process.argv[0]).name == command:
                return process
        return None

    def has_ended(self, command: str) -> bool:
        """True if what `spawn` started is gone: neither the daemon is there nor what is about to become it."""
        stages = {command, "setsid", "nsenter"}
        for _ in range(2):  # while a process changes its program, it has no environment for a moment
            if any(p.command == command and Path(p.argv[0]).name in stages for p in self.processes()):
                return False
            time.sleep(0.1)
        return True

    def spawn(self, command: str, argv: Sequence[str | Path], log: Path) -> None:
        """Start a daemon that outlives this process; what it says goes to the end of the log."""
        self._detach(command, [*self.enter(), *map(str, argv)], log)

    def run(self, *argv: str | Path, stdin: str | None = None) -> str:
        """Run a command in the sandbox and return its output. Raises SandboxError with its words when it fails."""
        done = subprocess.run(
            [*self.enter(), *map(str, argv)],
            env=self._environment("run"),
            cwd="/",
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SandboxError(
                f"{' '.join(map(str, argv))} in {self.name}: {done.stderr.strip() or done.stdout.strip()}"
            )
        return done.stdout

    def enter(self) -> list[str]:
        """The command line that another is appended to. Raises SandboxError where there is no sandbox."""
        pid = self.init()
        if not pid:
            raise SandboxError(f"{self.name} does not run")
        # Not `ip netns exec`, which mounts another /sys, without the cgroups.
        return ["nsenter", f"--target={pid}", "--pid", "--mount", "--uts", *(["--net"] if self.network else []), "--"]

    def _detach(self, command: str, argv: Sequence[str], log: Path) -> None:
        with log.open("ab") as out:
            # setsid forks and ends: what it leaves is an orphan, and no Ctrl-C reaches it.
            subprocess.run(
                ["setsid", "--fork", *argv],
                env=self._environment(command),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                check=True,
            )

    def _environment(self, command: str) -> dict[str, str]:
        return {**os.environ, MARK: f"{self.cluster}/{self.name}/{command}"}


def processes(cluster: str) -> Iterator[Process]:
    """All processes of a cluster's sandboxes that bear a mark; its containers' don't, and end with the others."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            environment = (folder / "environ").read_bytes()
            if f"{MARK}={cluster}/".encode() not in environment:
                continue
            mark = next(v for v in environment.split(b"\0") if v.startswith(f"{MARK}={cluster}/".encode()))
            argv = (folder / "cmdline").read_bytes().split(b"\0")
            status = (folder / "status").read_text()
        except (OSError, StopIteration):  # it has ended meanwhile
            continue
        _, sandbox, command = mark.decode().split("/")
        inner = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1]
        yield Process(int(folder.name), sandbox, command, int(inner), tuple(a.decode(errors="replace") for a in argv))


def kill_all(cluster: str, seconds: float = 20.0) -> list[Process]:
    """End all sandboxes of a cluster; what is still there when the time is over."""
    end = time.monotonic() + seconds
    while True:
        # Again and again: a command that was about to enter the sandbox may have been missed.
        left = list(processes(cluster))
        if not left or time.monotonic() > end:
            return left
        for process in left:
            process.kill()
        time.sleep(0.05)
