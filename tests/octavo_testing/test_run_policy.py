"""A second try forgives what a busy machine explains, and a skip needs a reason that is permitted."""

from __future__ import annotations

from pathlib import Path

import octavo_testing
import pytest

pytest_plugins = ["pytester"]
OPTIONS = ("-p", "octavo_testing.run_policy", "-p", "no:timeout", "--strict-markers", "-o", "markers=once")


@pytest.fixture(autouse=True)
def kit(monkeypatch):
    """The runs in a process of their own find the kit."""
    monkeypatch.setenv("PYTHONPATH", str(Path(octavo_testing.__path__[0]).parent))


@pytest.fixture
def flaky(pytester):
    """A test that fails at its first run, under a marker or doing what is given."""

    def write(mark: str = "", then: str = "assert False", options: tuple[str, ...] = OPTIONS):
        pytester.makepyfile(
            f"""
            import os, pathlib, pytest
            def test_steady():
                pass
            {mark}
            def test_flaky():
                seen = pathlib.Path("seen")
                if not seen.exists():
                    seen.touch()
                    {then}
            """
        )
        assert pytester.runpytest_subprocess(*options).ret == pytest.ExitCode.TESTS_FAILED
        return pytester.runpytest_subprocess(*options, "--second-try", "--last-failed")

    return write


def test_what_passes_at_the_second_try_is_named(flaky):
    second = flaky()
    assert second.ret == pytest.ExitCode.OK
    second.stdout.fnmatch_lines(["*passed at the second try only: 1", "*test_flaky*"])


def test_a_test_that_counts_at_once_stays_failed(flaky):
    second = flaky("@pytest.mark.once")
    assert second.ret == pytest.ExitCode.TESTS_FAILED
    second.stdout.fnmatch_lines(["*failed at the first try, which counts*"])


def test_a_crash_stays_a_failure(flaky):
    second = flaky(then="os._exit(3)", options=(*OPTIONS, "-n", "1"))
    assert second.ret == pytest.ExitCode.TESTS_FAILED
    second.stdout.fnmatch_lines(["*failed at the first try, which counts*"])


@pytest.mark.parametrize(("permitted", "code"), [("# why\nneeds [0-9]+ GPUs\n", 0), ("needs a node\n", 1)])
def test_a_skip_needs_a_permitted_reason(pytester, permitted, code):
    pytester.makepyfile("import pytest\ndef test_x():\n    pytest.skip('needs 2 GPUs')\ndef test_y():\n    pass")
    pytester.path.joinpath("permitted.txt").write_text(permitted)
    run = pytester.runpytest_subprocess(*OPTIONS, "--permitted-skips", "permitted.txt")
    assert run.ret == code
    if code:
        run.stdout.fnmatch_lines(["*skipped for a reason that is not permitted: *test_x: needs 2 GPUs"])
