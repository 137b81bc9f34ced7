"""Log lines as collectors read them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from octavo_operator.logs import JsonFormatter

SAYS = "import logging; from octavo_operator.logs import set_up; set_up(%r, 'info'); logging.getLogger('a').info('b')"


@pytest.mark.parametrize(("form", "stream"), [("json", "stdout"), ("text", "stderr")])
def test_what_a_collector_reads_is_on_stdout(form, stream):
    """Cloud Logging takes each line of stderr for an error."""
    result = subprocess.run([sys.executable, "-c", SAYS % form], capture_output=True, text=True, check=True)
    other = "stderr" if stream == "stdout" else "stdout"
    assert "b" in getattr(result, stream)
    assert getattr(result, other) == ""


@pytest.mark.parametrize("level", ["INFO", "WARNING", "ERROR"])
def test_a_line_has_its_severity(level):
    record = logging.LogRecord("a", getattr(logging, level), "", 0, "b", None, None)
    entry = json.loads(JsonFormatter().format(record))
    assert (entry["severity"], entry["level"]) == (level, level.lower())
