"""The rank that ended first is named as the cause, also where the others have ended by the time it is looked for."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest

from octavo_engine.core_client.core_handle import CoreHandle, RankProcess
from octavo_engine.messages import LOST_TOUCH


def sleeper(name):
    """A process that holds the end of a pipe, as ranks do."""
    read_end, write_end = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=[write_end])
    os.close(write_end)
    os.set_blocking(read_end, False)
    return RankProcess(name, process, read_end)


@pytest.fixture
def ranks():
    made = [sleeper(f"rank {i} of 3") for i in range(3)]
    yield made
    for rank in made:
        rank.process.kill()
        rank.process.wait()
        os.close(rank.alive)


@pytest.mark.parametrize("order", [(2, 0, 1), (1, 2, 0), (0, 1, 2)])
async def test_a_survivor_that_aborts_is_not_named_as_the_cause(ranks, tmp_path, order):
    """NCCL's watchdog aborts the survivors of a rank. All have ended before the loop looks at any of them."""
    handle = CoreHandle(ranks, tmp_path / "none")
    loop = asyncio.get_running_loop()
    causes, all_ended = [], asyncio.Event()

    def ended(rank):
        loop.remove_reader(rank.alive)
        handle.note_end(rank)
        causes.append(handle.cause())
        if len(causes) == 3:
            all_ended.set()

    for rank in ranks:
        loop.add_reader(rank.alive, ended, rank)
    first, *survivors = order
    ranks[first].process.send_signal(signal.SIGKILL)
    for survivor in survivors:
        await_zombie(ranks[first])
        ranks[survivor].process.send_signal(signal.SIGABRT)
        await_zombie(ranks[survivor])
    await all_ended.wait()
    assert causes == [f"rank {first} of 3 ended unexpectedly (killed by signal 9)"] * 3


def test_a_rank_whose_pipe_has_ended_is_waited_for(ranks, tmp_path):
    """The cause of its end is not known yet when the others are already gone."""
    handle = CoreHandle(ranks, tmp_path / "none")
    ranks[0].process.send_signal(signal.SIGABRT)
    await_zombie(ranks[0])
    handle.note_end(ranks[1])
    assert handle.cause() is None
    ranks[1].process.send_signal(signal.SIGKILL)
    await_zombie(ranks[1])
    assert handle.cause() == "rank 1 of 3 ended unexpectedly (killed by signal 9)"


def test_a_rank_that_lost_touch_is_never_the_cause(ranks, tmp_path):
    """Such a rank says so by its exit code, whenever it ended."""
    handle = CoreHandle(ranks, tmp_path / "none")
    code = f"import os; os._exit({LOST_TOUCH})"
    ranks[0].process.kill()
    ranks[0].process.wait()
    ranks[0].process = subprocess.Popen([sys.executable, "-c", code])
    ranks[0].process.wait()
    handle.note_end(ranks[0])
    assert handle.cause() is None
    ranks[2].process.kill()
    await_zombie(ranks[2])
    assert handle.cause() == "rank 2 of 3 ended unexpectedly (killed by signal 9)"


def await_zombie(rank):
    """Wait until the process is a zombie: ended, and not reaped by its parent."""
    end = time.monotonic() + 20
    while os.waitid(os.P_PID, rank.process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        assert time.monotonic() < end
        time.sleep(0.005)
