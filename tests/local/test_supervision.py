"""Replicas are held to the plan's deadlines, each by itself; a fault of the supervisor's own is not passed over."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socket
import sys
from types import SimpleNamespace

import aiohttp
import pytest
from up_runs import FAKE_ENGINE, free_port, gone

from octavo_operator.local import supervisor as module
from octavo_operator.local.display import Plain
from octavo_operator.local.supervisor import Supervisor
from octavo_operator.local.upstream import session
from octavo_operator.planner.plan import Lifecycle, Probe
from octavo_operator.settings import Settings

pytestmark = pytest.mark.timeout(60)


class Run:
    """A Supervisor over fake engines, with deadlines of seconds."""

    def __init__(
        self, replicas: int, *, startup: float = 30, liveness: float = 30, grace: float = 1, **env: str
    ) -> None:
        self.log = io.StringIO()
        self.port = free_port()
        lifecycle = Lifecycle(
            expected=30,
            startup=Probe("/health", startup, 1, 1),
            readiness=Probe("/health", 1, 0.3, 1),
            liveness=Probe("/health", liveness / 2, 1, 2),
            pre_stop=5,
            drain=1,
            grace=5 + grace,
        )
        plan = SimpleNamespace(
            name="svc",
            served_names=("svc",),
            lifecycle=lifecycle,
            engine=SimpleNamespace(env=(), runtime="octavo", scheme="http", tls=None),
        )
        launch = SimpleNamespace(
            plan=plan, env={**os.environ, **env}, cores=None,
            arguments=lambda port: ("--host", "127.0.0.1", "--port", str(port)),
        )  # fmt: skip
        settings = Settings(engine_command=(sys.executable, *FAKE_ENGINE), first_restart_pause_s=0.1)
        self.supervisor = Supervisor(plan, [launch] * replicas, self.port, settings, Plain(self.log))

    @contextlib.asynccontextmanager
    async def running(self):
        task = self._task = asyncio.create_task(self.supervisor.run())
        try:
            yield task
        finally:
            self.supervisor._interrupt()
            self.supervisor._interrupt()
            await asyncio.wait((task,))
            with contextlib.suppress(Exception):
                task.result()

    async def until(self, words: str, count: int = 1) -> None:
        """Wait for the log to have the words. An end of the run before that fails, as does a wait of 45 s: a running
        supervisor ignores the signal that pytest's own time limit uses."""
        async with asyncio.timeout(45):
            while True:
                ended = self._task.done()
                if self.log.getvalue().count(words) >= count:
                    return
                assert not ended, f"the run ended with {self._task}:\n{self.log.getvalue()}"
                await asyncio.sleep(0.02)

    @property
    def pid(self) -> int:
        return self.supervisor.replicas[0]._process.pid


async def hang(port: int) -> None:
    """Sends what makes a fake engine hang."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /hang HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()
    writer.close()


async def test_a_replica_that_no_longer_answers_is_ended_and_started_again():
    """The plan's liveness probe finds it; it ignores SIGTERM too, so that it takes the kill after the grace."""
    run = Run(1, liveness=1)
    async with run.running():
        await run.until("svc  ready")
        before = run.pid
        await hang(run.port)
        await run.until("/health failed for 1 s: it is ended")
        await run.until("ended by SIGKILL: /health failed for 1 s; it starts again in 0.1 s")
        await run.until("svc  ready", 2)
        assert gone(before)


async def test_a_replica_that_never_becomes_ready_is_given_up():
    """After the plan's start-up budget, three times; what it lacked is the last word."""
    run = Run(1, startup=1, FAKE_NEVER_READY="1")
    async with run.running() as task:
        assert await task == 1
        assert run.log.getvalue().count("starting on port") == 3
        assert run.log.getvalue().splitlines()[-1] == "octavo up: not ready after 1 s without a word"


async def test_a_replica_whose_download_goes_on_is_not_given_up():
    """The budget is for a model that lies in the cache: here each line of progress counts as life."""
    run = Run(1, startup=2, FAKE_NEVER_READY="1", FAKE_PROGRESS="0.2")
    async with run.running():
        await run.until("svc  ready")
    assert run.log.getvalue().count("starting on port") == 1


async def test_a_replica_that_does_not_stop_is_killed_after_its_grace():
    """One Ctrl-C is enough."""
    run = Run(1)
    async with run.running() as task:
        await run.until("svc  ready")
        pid = run.pid
        await hang(run.port)
        await asyncio.sleep(0.2)
        run.supervisor._interrupt()
        assert await task == 0
        assert gone(pid)


async def test_one_replica_that_hangs_does_not_age_what_is_known_of_the_others():
    """Each is asked by itself: the one answers many times while another lets its first question wait."""
    run = Run(2)
    lifecycle = run.supervisor.plan.lifecycle
    patient = Probe("/health", 1, 1000, 1)
    run.supervisor.plan.lifecycle = SimpleNamespace(readiness=patient, drain=lifecycle.drain)
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    with socket.create_server(("127.0.0.1", 0)) as mute:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server, session() as client:
            run.supervisor.upstreams[0].port = server.sockets[0].getsockname()[1]
            run.supervisor.upstreams[1].port = mute.getsockname()[1]
            watching = asyncio.create_task(run.supervisor._watch(client, None))
            async with asyncio.timeout(45):
                while asked < 6:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert run.supervisor.upstreams[0].ready
            assert not run.supervisor.upstreams[1].ready
            watching.cancel()
            await asyncio.wait((watching,))


async def test_a_fault_of_the_watcher_ends_the_run(monkeypatch):
    """Readiness that nothing keeps up to date would send requests to dead replicas for ever."""

    async def broken(*_: object) -> None:
        await asyncio.sleep(0.1)
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(module, "watch", broken)
    run = Run(2)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        await run.supervisor.run()
    assert all(gone(replica._process.pid) for replica in run.supervisor.replicas)


async def test_a_lack_of_descriptors_says_nothing_of_a_replica(monkeypatch):
    """A probe that can't connect for want of one leaves readiness as it was."""
    from octavo_operator.local.upstream import Upstream, refresh

    async with session() as client:
        upstream = Upstream("a", port=1, ready=True)

        def none_left(*_: object, **__: object) -> None:
            key = SimpleNamespace(host="127.0.0.1", port=1, ssl=None, is_ssl=False)
            raise aiohttp.ClientConnectorError(key, OSError(24, "Too many open files"))

        monkeypatch.setattr(client, "get", none_left)
        for _ in range(3):
            await refresh(client, upstream, Probe("/health", 1, 1, 1))
        assert upstream.ready
        assert upstream.failing_since is None
