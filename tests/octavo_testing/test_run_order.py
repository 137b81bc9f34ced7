"""Files that share a control plane go to one worker, and a run goes on after a crash."""

from __future__ import annotations

from pathlib import Path

import octavo_testing
import pytest

pytest_plugins = ["pytester"]
OPTIONS = ("-p", "octavo_testing.run_order", "-p", "no:timeout", "--dist", "loadfile", "--no-loadscope-reorder")


@pytest.fixture(autouse=True)
def kit(monkeypatch):
    """The runs in a process of their own find the kit."""
    monkeypatch.setenv("PYTHONPATH", str(Path(octavo_testing.__path__[0]).parent))


@pytest.mark.sample(after=["def test_one_more(): pass"])
@pytest.mark.parametrize("after", ["", "def test_one_more(): pass", "def test_1(): pass\n\n\ndef test_2(): pass"])
def test_a_run_goes_on_after_a_crash_without_the_test_that_crashed(pytester, after):
    pytester.makepyfile(
        test_crash=f"import os\ndef test_before(): pass\ndef test_crash(): os._exit(3)\n{after}",
        test_other="def test_other(): pass",
        test_single="def test_single(): pass",
    )
    run = pytester.runpytest_subprocess(*OPTIONS, "-n", "2", timeout=60)
    run.assert_outcomes(passed=3 + after.count("def"), failed=1)
    run.stdout.fnmatch_lines(["*crashed while running*test_crash*"])


def test_a_file_that_needs_the_control_plane_and_is_in_no_lane_is_refused(pytester):
    pytester.makeconftest("import pytest\n@pytest.fixture(scope='session')\ndef control_plane(): return 1")
    pytester.makepyfile(test_new="def test_it(control_plane): pass")
    run = pytester.runpytest_subprocess(*OPTIONS, "-n", "2", timeout=60)
    run.assert_outcomes(errors=1)
    run.stdout.fnmatch_lines(["*test_new.py needs the control plane: give it a lane in *"])
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=1)  # alone it may
