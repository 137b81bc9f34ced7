"""The mark `sample` leaves to `make test-all` what it does not name, and names what there is."""

from __future__ import annotations

from pathlib import Path

import octavo_testing
import pytest

pytest_plugins = ["pytester"]
MARKERS = "markers=slow\n sample"
OPTIONS = (
    "-p",
    "octavo_testing.sampled_cases",
    "-p",
    "no:timeout",
    "-p",
    "no:asyncio",
    "-o",
    MARKERS,
    "--collect-only",
    "-q",
)
TEST = """
import pytest
{marks}
@pytest.mark.parametrize("a", [1, 2, 3])
@pytest.mark.parametrize("b", ["x", "y"])
def test_it(a, b):
    pass
"""


@pytest.fixture
def collected(pytester, monkeypatch):
    """The collection of the test with these marks, under `-m`."""
    monkeypatch.syspath_prepend(str(Path(octavo_testing.__path__[0]).parent))

    def collect(marks: str, chosen: str):
        pytester.makepyfile(test_one=TEST.format(marks=marks))
        return pytester.runpytest_inprocess(*OPTIONS, "-m", chosen)

    return collect


def cases(result) -> set[str]:
    return {line.partition("[")[2].rstrip("]") for line in result.outlines if "::test_it[" in line}


@pytest.mark.parametrize(
    ("marks", "quick"),
    [
        ("@pytest.mark.sample(a=[1, 3])", {"x-1", "x-3", "y-1", "y-3"}),
        ("@pytest.mark.sample(a=[1], b=['x'])\n@pytest.mark.sample(a=[2])", {"x-1", "x-2", "y-2"}),
    ],
)
def test_the_cases_that_it_names_are_quick_and_all_others_slow(collected, marks, quick):
    assert cases(collected(marks, "not slow")) == quick
    assert cases(collected(marks, "slow")) == {f"{b}-{a}" for a in (1, 2, 3) for b in "xy"} - quick


@pytest.mark.parametrize(
    ("mark", "message"), [("a=[4]", "matches none of their cases"), ("c=[1]", "names parameters of the test, not")]
)
def test_a_mark_that_names_what_there_is_not_is_an_error(collected, mark, message):
    result = collected(f"@pytest.mark.sample({mark})", "not slow")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{message}*"])
