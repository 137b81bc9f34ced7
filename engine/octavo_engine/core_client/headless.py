"""A machine of several that serves no HTTP: it runs its ranks, and ends with the engine that they are part of."""

from __future__ import annotations

import selectors
import signal
import socket
import sys
import time

from octavo_engine.config import EngineConfig, ParallelConfig
from octavo_engine.core_client.core_handle import LOST_EACH_OTHER, CoreHandle
from octavo_engine.errors import EngineDeadError
from octavo_engine.signals import hangup_ends

RETRY_SECONDS = 1.0
CAUSE_SECONDS = 3.0  # after the first rank's end, until it is clear that the cause is elsewhere


class _StoppedError(Exception):
    """A signal stops this node: SIGTERM, SIGINT or SIGHUP."""


def run(config: EngineConfig) -> int:
    """Join the ranks of the other machines and wait; 0 when the engine or a signal has ended it in good order.

    Raises:
        ConfigError: as `CoreHandle.start`.
        EngineDeadError: a rank ended by itself, here or elsewhere.
    """

    def on_signal(number: int, _frame: object) -> None:
        raise _StoppedError(number)

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    if hangup_ends():
        signal.signal(signal.SIGHUP, on_signal)
    core = None
    try:
        _wait_for_master(config.parallel)
        core = CoreHandle.start(config)
        _say(f"node {config.parallel.node_rank} runs {_ranks(config.parallel)}; --node-rank 0 serves HTTP")
        _wait(core)
    except _StoppedError:
        if core is not None:
            core.kill()
    finally:
        if core is not None:
            core.close(timeout=0)
    return 0


def _wait_for_master(parallel: ParallelConfig) -> None:
    """Wait until rank 0's machine listens; nodes start in any order."""
    reported = 0.0
    while True:
        try:
            socket.create_connection((parallel.master_addr, parallel.master_port), RETRY_SECONDS).close()
        except OSError as error:
            if time.monotonic() - reported > 10:
                reported = time.monotonic()
                _say(f"waiting for rank 0 at {parallel.master_addr}:{parallel.master_port} ({error})")
            time.sleep(RETRY_SECONDS)
        else:
            return


def _wait(core: CoreHandle) -> None:
    """Wait until all ranks have ended. Raises EngineDeadError."""
    with selectors.DefaultSelector() as selector:
        for rank in core.ranks:
            selector.register(rank.alive, selectors.EVENT_READ)
        selector.select()
    end = time.monotonic() + CAUSE_SECONDS
    while time.monotonic() < end:
        codes = [rank.process.poll() for rank in core.ranks]
        if all(code == 0 for code in codes):
            _say("the engine has ended")
            return
        if any(codes) and (cause := core.cause()):
            raise EngineDeadError(cause)
        time.sleep(0.05)
    raise EngineDeadError(LOST_EACH_OTHER)


def _ranks(parallel: ParallelConfig) -> str:
    here = parallel.ranks_here
    which = f"rank {here[0]}" if len(here) == 1 else f"ranks {here[0]} to {here[-1]}"
    return f"{which} of {parallel.world_size}"


def _say(line: str) -> None:
    print(f"octavo serve: {line}", file=sys.stderr, flush=True)  # noqa: T201
