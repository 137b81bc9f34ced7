"""One replica as a child process: started, watched, restarted with back-off, stopped.

The child ends with this process, however that ends. What it prints is passed on line by line; the last line of its
standard error is the reason for its end.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import signal
import socket
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from octavo_operator.local.launch import LOOPBACK, Launch
from octavo_operator.local.upstream import Upstream

PR_SET_PDEATHSIG = 1  # linux/prctl.h
CONFIG_ERROR = 2  # the engine's exit status for what no restart heals
HOPELESS = 3  # failures in a row before it was ever ready
LONGEST_PAUSE_S = 60.0
STEADY_S = 60.0  # ready for so long, the back-off begins again
LONGEST_LINE = 1 << 16
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of one run of the process."""

    status: int
    reason: str

    def __str__(self) -> str:
        if self.status < 0:
            name = signal.Signals(-self.status).name
            return f"ended by {name}" + (f": {self.reason}" if self.reason else "")
        return f"ended with status {self.status}" + (f": {self.reason}" if self.reason else "")


class HopelessError(Exception):
    """Restarting is no use: a wrong configuration, or it never became ready."""

    def __init__(self, ended: Ended, message: str) -> None:
        super().__init__(message)
        self.ended = ended


@dataclass(slots=True)
class Replica:
    """`report(kind, text)` receives `line`, `starting`, `ended`: the display decides what a person sees of it."""

    upstream: Upstream
    launch: Launch
    command: Sequence[str]
    report: Callable[[str, str], None]
    fixed_port: int | None = None  # else a free one at each start
    first_pause: float = 1.0
    others_ready: Callable[[], bool] = lambda: False
    restarts: int = 0
    ever_ready: bool = False
    _ready_since: float | None = None  # in this run
    _last_sign: float = 0.0  # of this run: its start, or the last line that it printed
    _verdict: str = ""  # why this run was ended from here
    _process: Process | None = None
    _stopping: bool = False
    _killed: bool = False
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def became_ready(self) -> None:
        """Record that its health check has succeeded."""
        self.ever_ready = True
        self._ready_since = time.monotonic()

    async def keep_running(self) -> None:
        """Run, and run again, until `stop`. Raises HopelessError."""
        pause, in_vain = self.first_pause, 0
        while not self._stopping:
            self._ready_since = None
            ended = await self._run_once()
            self.upstream.stopped()
            if self._stopping:
                return
            if ended.status == CONFIG_ERROR:
                raise HopelessError(ended, ended.reason or "the engine refuses its configuration")
            in_vain += 1
            if self._ready_since is not None:
                in_vain = 0
                if time.monotonic() - self._ready_since > STEADY_S:
                    pause = self.first_pause
            if in_vain >= HOPELESS and not self.ever_ready and not self.others_ready():
                raise HopelessError(ended, ended.reason or str(ended))
            self.restarts += 1
            self.report("ended", f"{ended}; it starts again in {pause:g} s")
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):  # not wait_for, which may lose a cancellation before Python 3.12
                    await self._wake.wait()
            pause = min(pause * 2, LONGEST_PAUSE_S)

    def stop(self) -> None:
        """Let it finish its requests and end; kill it after the grace that the plan gives it."""
        self._stopping = self.upstream.draining = True
        self._wake.set()
        self._end()

    def kill(self) -> None:
        """End it now."""
        self._stopping = self._killed = self.upstream.draining = True
        self._wake.set()
        self._signal(signal.SIGKILL)

    def _end(self) -> None:
        process = self._process
        self._signal(signal.SIGTERM)
        if process is not None:
            asyncio.get_running_loop().call_later(self._grace_s, _kill, process)

    @property
    def _grace_s(self) -> float:
        lifecycle = self.launch.plan.lifecycle
        return lifecycle.grace - lifecycle.pre_stop  # no endpoints have to be waited for here

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _run_once(self) -> Ended:
        port = self.fixed_port or free_port()
        self.report("starting", f"on port {port}")
        try:
            self._process = await asyncio.create_subprocess_exec(
                *map(_utf8, (*self.command, *self.launch.arguments(port))),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=PIPE,
                stderr=PIPE,
                env={_utf8(name): _utf8(value) for name, value in self.launch.env.items()},
                start_new_session=True,  # Ctrl-C is for us: the replicas get SIGTERM
                preexec_fn=_in_child(os.getpid(), self.launch.cores),
            )
        except OSError as error:
            return Ended(127, f"{self.command[0]} can't be started: {error.strerror}")
        self.upstream.port = port
        self._last_sign, self._verdict = time.monotonic(), ""
        if self._killed:  # it was asked to end while the process was being made
            self._signal(signal.SIGKILL)
        elif self._stopping:
            self._end()
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        judging = asyncio.create_task(self._judge())
        try:
            _, last = await asyncio.gather(self._pass_on(self._process.stdout), self._pass_on(self._process.stderr))
            status = await self._process.wait()
        finally:
            judging.cancel()
        return Ended(status, self._verdict or last.removeprefix("octavo serve: "))

    async def _judge(self) -> None:
        """End a run that does not become ready, or no longer answers, by the plan's probes, as the kubelet would."""
        startup, liveness = self.launch.plan.lifecycle.startup, self.launch.plan.lifecycle.liveness
        while not self._stopping:
            await asyncio.sleep(min(liveness.period, 1.0))
            now, failing_since = time.monotonic(), self.upstream.failing_since
            # Here the engine downloads its model itself, for which the budget has no time: each line of its progress
            # is a sign of life.
            if self._ready_since is None and now - self._last_sign > startup.period * startup.failures:
                self._verdict = f"not ready after {startup.period * startup.failures:g} s without a word"
            elif (
                self._ready_since is not None
                and failing_since is not None
                and now - failing_since > liveness.period * liveness.failures
            ):
                self._verdict = f"{liveness.path} failed for {liveness.period * liveness.failures:g} s"
            else:
                continue
            self.report("line", f"{self._verdict}: it is ended")
            self._end()
            return

    async def _pass_on(self, stream: asyncio.StreamReader) -> str:
        """Report each line, also those that a progress bar overwrites; returns the last one."""
        last = ""
        rest = b""
        while chunk := await stream.read(1 << 16):
            *lines, rest = re.split(rb"[\r\n]", rest + chunk)
            if len(rest) > LONGEST_LINE:
                lines, rest = [*lines, rest], b""
            for line in lines:
                last = self._report_line(line) or last
        return self._report_line(rest) or last

    def _report_line(self, raw: bytes) -> str:
        line = CONTROL.sub("", raw.decode("utf-8", errors="replace")).strip()
        if line:
            self._last_sign = time.monotonic()
            self.report("line", line)
        return line


def _utf8(text: str) -> bytes:
    """A manifest's text may hold characters that this locale has no bytes for; the engine runs in UTF-8 mode."""
    return text.encode("utf-8", "surrogateescape")


def _kill(process: Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()


def free_port() -> int:
    """A port of the loopback on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def port_is_free(port: int) -> bool:
    """True if nothing listens on the Service's port of the loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def _in_child(parent: int, cores: frozenset[int] | None) -> Callable[[], None]:
    """Prepare the child between fork and exec; the library is loaded before the fork."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def prepare() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the parent ended before the kernel was asked
            os._exit(1)
        if cores is not None:
            os.sched_setaffinity(0, cores)

    return prepare
