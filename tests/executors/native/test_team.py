"""The executor's threads when one of them fails, or can't be had."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from octavo_engine.executors.native import _native

TOTAL = 1000


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_an_exception_in_a_phase_is_the_callers_and_the_team_goes_on(threads):
    """Thrown by the caller's thread or by any worker, again and again: never a hang, never the end of the process."""
    team = _native.Team(threads)
    for _ in range(20):
        for thrower in range(threads):
            with pytest.raises(RuntimeError, match=f"^thread {thrower} failed$"):
                team.sum(TOTAL, thrower)
            assert team.sum(TOTAL) == TOTAL * (TOTAL - 1) // 2


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_an_exception_between_phases_is_the_callers(threads):
    """On all threads at once: the first is reported."""
    team = _native.Team(threads)
    for _ in range(50):
        with pytest.raises(RuntimeError, match=r"^thread \d failed$"):
            team.fail_outside()
        assert team.sum(TOTAL) == TOTAL * (TOTAL - 1) // 2


def limited(program: str, *, address_space: int) -> subprocess.CompletedProcess[str]:
    """Run `program` with so many bytes more than the module itself takes."""
    before = f"""
import resource
from octavo_engine.executors.native import _native
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + {address_space},) * 2)
"""
    return subprocess.run(
        [sys.executable, "-c", before + program], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_AS") or sys.platform != "linux", reason="needs Linux's limits")
def test_threads_that_the_system_refuses_are_one_sentence():
    """A limit on processes or memory: what was asked for, how far it came, and the flag."""
    run = limited("_native.Team(500)", address_space=200 << 20)
    assert run.returncode == 1, run
    assert run.stderr.splitlines()[-1].startswith("RuntimeError: only "), run.stderr
    assert "of 500 threads could be started" in run.stderr
    assert "set --threads to fewer" in run.stderr
