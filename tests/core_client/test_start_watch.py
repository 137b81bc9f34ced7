"""A start goes on for as long as it moves, however slowly, and ends where it stands still."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

import pytest
from octavo_testing.served import Served, write_model

from octavo_engine.core_client import start_watch
from octavo_engine.core_client.start_watch import LEAST_BYTES, StartWatch, bytes_moved
from octavo_engine.errors import ModelLoadError


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch):
    monkeypatch.setattr(start_watch, "LOOK_SECONDS", 0.02)


async def load(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "loaded"


async def test_a_slow_load_goes_on_for_several_times_its_patience():
    began = time.monotonic()

    def trickle() -> int:
        return int((time.monotonic() - began) * 10 * LEAST_BYTES)  # the least that counts, each tenth of a second

    assert await StartWatch(trickle, patience=0.3).until(load(1.2)) == "loaded"


async def test_a_load_that_only_chatters_ends_and_says_since_when():
    moved = iter(range(10**6))
    cancelled = asyncio.Event()

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    watch = StartWatch(lambda: next(moved), patience=0.2)
    watch.noting(lambda *_: None)("found the model", 0.1)
    with pytest.raises(ModelLoadError, match=r"no progress for 0.2 s since it found the model: .* --start-timeout"):
        await watch.until(hang())
    await asyncio.wait_for(cancelled.wait(), 1)


async def test_stages_are_progress_as_well():
    watch = StartWatch(lambda: 0, patience=0.4)
    heard: list[str] = []
    note = watch.noting(lambda stage, _seconds: heard.append(stage))

    async def staged() -> None:
        for index in range(5):
            await asyncio.sleep(0.2)
            note(str(index), 0.2)

    await watch.until(staged())
    assert heard == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(("moved", "patience"), [(None, 0.05), (0, 0)])
async def test_where_progress_is_not_known_or_no_limit_is_set_it_waits(moved, patience):
    assert await StartWatch(lambda: moved, patience).until(load(0.5)) == "loaded"


async def test_a_start_that_fails_says_why():
    async def fails() -> None:
        raise ModelLoadError("x.gguf is cut short")

    with pytest.raises(ModelLoadError, match="cut short"):
        await StartWatch(lambda: 0, patience=5).until(fails())


def test_bytes_of_processes_are_counted():
    program = "import sys; open('/dev/zero','rb').read(1 << 24); print('read', flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        alone, both = bytes_moved([process.pid]), bytes_moved([process.pid, os.getpid()])
        assert alone is not None
        assert both is not None
        assert 1 << 24 <= alone < both
    finally:
        process.communicate()
    assert bytes_moved([process.pid]) == 0, "one that has ended moves nothing"


@pytest.mark.slow
def test_a_server_whose_load_hangs_ends_with_one_sentence(tmp_path):
    model = write_model(tmp_path)
    with Served(model, "--start-timeout", "3", wait=False, env={"FAKE_LOAD_SECONDS": "600"}) as server:
        assert server.wait(120) == 1
        assert "the start has made no progress for 3 s since it" in server.lines[-1]
        assert "Traceback" not in server.output
