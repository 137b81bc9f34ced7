"""`make demo`'s script: progress on standard error, and nothing of it between the question and the end of the answer."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/demo.py"
UP_THAT_CHATTERS = """
url = "http://127.0.0.1:" + sys.argv[sys.argv.index("--port") + 1] + "/v1"
print("   0.1 s  smollm2  starting", file=sys.stderr, flush=True)
print(f"smollm2 answers at {url} as smollm2", file=sys.stderr, flush=True)
for n in range(5):
    print(f"LATE {n}", file=sys.stderr, flush=True)
signal.sigwait({signal.SIGINT})
print("stopping", file=sys.stderr, flush=True)
"""
UP_THAT_FAILS = """
print("octavo up: port 80 is in use", file=sys.stderr, flush=True)
sys.exit(3)
"""
CHAT = """
for word in ("A", "Deployment", "runs", "replicas."):
    print(word, end=" ", flush=True)
    time.sleep(0.1)
print(flush=True)
"""


@pytest.fixture
def demo(tmp_path: Path):
    """Runs the script with a command `octavo` in place of the real one; both streams go to one pipe, in order."""

    def run(up: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "python").symlink_to(sys.executable)
        octavo = tmp_path / "octavo"
        indented = {name: text.replace("\n", "\n    ") for name, text in (("up", up), ("chat", CHAT))}
        octavo.write_text(
            f"#!{sys.executable}\nimport signal, sys, time\n"
            "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})\n"
            f"if sys.argv[1] == 'up':{indented['up']}\nelse:{indented['chat']}\n"
        )
        octavo.chmod(octavo.stat().st_mode | stat.S_IXUSR)
        return subprocess.run(
            [tmp_path / "python", SCRIPT],
            env=os.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_no_line_of_the_server_falls_into_the_answer(demo):
    """What it prints meanwhile is not lost: it follows the answer."""
    made = demo(UP_THAT_CHATTERS)
    assert made.returncode == 0
    before, rest = made.stdout.split("$ octavo chat", 1)
    answer, after = rest.split("A Deployment runs replicas. \n", 1)
    assert "starting" in before
    assert "answers at" in before
    assert "LATE" not in answer + before
    assert [line for line in after.splitlines() if line.startswith("LATE")] == [f"LATE {n}" for n in range(5)]
    assert "stopping" in after
    assert "a real model" in after


def test_a_server_that_does_not_start_ends_the_demo_at_once(demo):
    """With its own words and its exit code, and without a question."""
    made = demo(UP_THAT_FAILS)
    assert made.returncode == 1
    assert "port 80 is in use" in made.stdout
    assert "exited with code 3" in made.stdout
    assert "octavo chat" not in made.stdout
