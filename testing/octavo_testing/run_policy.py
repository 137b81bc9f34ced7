"""The failures that a run of the whole suite forgives: a pytest plugin.

A test that failed beside others is run once more alone (`--second-try`), because a machine with other work can miss a
deadline. What no load explains is not forgiven: a test marked `once`, such as one that counts dropped requests, and a
test whose worker crashed. What passed at the second try only is named at the end.

With `--permitted-skips FILE` a test may be skipped for the reasons in that file alone, one regular expression a line.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FAILED = "cache/lastfailed"  # pytest's own
CRASHED = "octavo/crashed"
ONCE = "it failed at the first try, which counts: no load explains a dropped request or a crash"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("octavo")
    group.addoption("--second-try", action="store_true", help="run again what failed, unless no load explains it")
    group.addoption("--permitted-skips", type=Path, help="a file with the reasons that tests may be skipped for")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(RunPolicy(config), "octavo-run-policy")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    cache = getattr(item.config, "cache", None)  # without pytest's cache plugin there is none
    if not item.config.getoption("--second-try") or cache is None or item.nodeid not in cache.get(FAILED, {}):
        return
    if item.get_closest_marker("once") is not None or item.nodeid in cache.get(CRASHED, []):
        pytest.fail(ONCE, pytrace=False)


class RunPolicy:
    """Collects the reports of all workers, in the process that starts them."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        file = config.getoption("--permitted-skips")
        lines = file.read_text().splitlines() if file is not None else None
        self._permitted = None if lines is None else [re.compile(each) for each in lines if each and each[0] != "#"]
        self._crashed: list[str] = []
        self._skipped: dict[str, str] = {}  # test: a reason that is not permitted
        self._passed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and re.search(r"worker '\w+' crashed while running", str(report.longrepr)):
            self._crashed.append(report.nodeid)
        if report.skipped and self._permitted is not None and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
            reason = reason.removeprefix("Skipped: ")
            if not any(each.search(reason) for each in self._permitted):
                self._skipped[report.nodeid] = reason
        if report.passed and report.when == "call":
            self._passed.append(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        cache = getattr(self._config, "cache", None)
        if not self._config.getoption("--second-try") and cache is not None:
            cache.set(CRASHED, self._crashed)
        if self._skipped and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for name, reason in self._skipped.items():
            terminalreporter.write_line(f"· skipped for a reason that is not permitted: {name}: {reason}")
        if self._config.getoption("--second-try"):
            terminalreporter.write_line(f"· passed at the second try only: {len(self._passed)}")
            for name in self._passed:
                terminalreporter.write_line(f"  {name}")
