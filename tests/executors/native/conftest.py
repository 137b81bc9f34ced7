"""Selects the module under test, and reports the instruction sets it met and how exact embeddings are.

OCTAVO_NATIVE_MODULE names the built module to test instead of the installed one (scripts/test-sanitize.sh).
"""

from __future__ import annotations

import importlib.util
import os
import sys

import pytest

_path = os.environ.get("OCTAVO_NATIVE_MODULE")
if _path:
    import octavo_engine.executors.native as _package

    _name = f"{_package.__name__}._native"
    _spec = importlib.util.spec_from_file_location(_name, _path)
    sys.modules[_name] = _package._native = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[_name])

from native_executors import SPECS, start  # noqa: E402  after the module above is in its place

from octavo_engine.executors.native.executor import NativeExecutor  # noqa: E402
from octavo_models import from_hf_config  # noqa: E402


@pytest.fixture(scope="module", params=list(SPECS))
def spec(request):
    return from_hf_config(SPECS[request.param])


@pytest.fixture
def executor(spec, tmp_path):
    executor = start(NativeExecutor, spec, tmp_path)
    yield executor
    executor.close()


def pytest_terminal_summary(terminalreporter) -> None:
    """Says what ran, so that a green run on a small CPU is not taken for one on a large one."""
    from instruction_sets import NAMES, available

    native = [r for reports in terminalreporter.stats.values() for r in reports if hasattr(r, "user_properties")]
    if not any(r.nodeid.startswith("tests/executors/native/") for r in native):
        return
    ran, lacking = [n for n in NAMES if available(n)], [n for n in NAMES if not available(n)]
    terminalreporter.section("native executor")
    terminalreporter.line(
        f"ran: {', '.join(ran)}" + (f"; skipped, for this CPU lacks it: {', '.join(lacking)}" if lacking else "")
    )
    errors = {(e[0], e[1]): e[2] for r in native for name, e in r.user_properties if name == "embedding"}
    if not errors:
        return
    terminalreporter.line(
        "embedding rows in a step against the format's reference, scales from 1e-7 to 1: largest difference"
    )
    terminalreporter.line(f"{'':8}" + "".join(f"{name:>14}" for name in ran))
    for form in dict.fromkeys(form for form, _ in errors):
        cells = (errors.get((form, name)) for name in ran)
        terminalreporter.line(f"{form:8}" + "".join(f"{'-' if e is None else f'{e:.1e}':>14}" for e in cells))
