"""`octavo run-batch`: every row of a file is answered once, also when a run is killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from octavo_testing.served import KIT, TINY_CONFIG, write_model

from octavo_engine.batches.rows import BatchError, answered, read_rows


def row(name, **fields):
    body = {"prompt": "hello", "max_tokens": 4} | fields.pop("body", {})
    return {"custom_id": name, "method": "POST", "url": "/v1/completions", "body": body} | fields


def write(path, rows):
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = write_model(tmp_path_factory.mktemp("model"))
    (folder / "config.json").write_text(json.dumps(TINY_CONFIG))
    return folder


def command(model, rows, answers):
    flags = ["--load-format", "dummy", "--executor", "native", "--max-num-seqs", "4", "--kv-cache-memory-bytes", "4M"]
    return [sys.executable, "-m", "octavo", "run-batch", "-i", rows, "-o", answers, str(model), *flags]


def test_each_row_is_answered_once_though_a_run_is_killed(model, tmp_path):
    """A row that is refused has its error; a killed run takes its server with it, and the next one goes on."""
    names = [f"row {i}" for i in range(60)]
    rows = [row(name, body={"max_tokens": 100, "ignore_eos": True}) for name in names]
    rows[7]["body"]["temperature"] = -1
    rows[9]["url"] = "/metrics"
    rows[10]["body"]["stream"] = True
    rows[8] |= {
        "url": "/v1/chat/completions",
        "body": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3},
    }
    given, answers = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    env = os.environ | {"PYTHONPATH": str(KIT)}
    first = subprocess.Popen(command(model, given, answers), env=env, stdout=subprocess.DEVNULL)
    while first.poll() is None and (not answers.exists() or answers.read_bytes().count(b"\n") < 3):
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    with answers.open("ab") as file:
        file.write(b'{"custom_id": "row')  # the line that it could not finish
    again = subprocess.run(command(model, given, answers), env=env, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    assert sorted(line["custom_id"] for line in lines) == sorted(names)
    by_name = {line["custom_id"]: line for line in lines}
    assert by_name["row 7"]["response"]["status_code"] == 400
    assert "temperature" in by_name["row 7"]["error"]["error"]["message"]
    assert by_name["row 8"]["response"]["body"]["object"] == "chat.completion"
    assert "/metrics is not served" in by_name["row 9"]["error"]["error"]["message"]
    assert "no streams" in by_name["row 10"]["error"]["error"]["message"]
    assert {name for name, line in by_name.items() if line["error"]} == {"row 7", "row 9", "row 10"}
    third = subprocess.run(command(model, given, answers), env=env, capture_output=True, text=True, check=False)
    assert (third.returncode, "0 are left" in third.stdout) == (0, True)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2 is no request"),
        (json.dumps(row("first")), "custom_id 'first'"),
        ('{"custom_id": "x", "method": "POST", "url": "/v1/completions"}', "body"),
    ],
)
def test_a_wrong_line_ends_the_run_before_it_begins(tmp_path, line, says):
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(row("first")) + "\n" + line + "\n")
    with pytest.raises(BatchError, match=says):
        list(read_rows(path))


def test_a_file_of_something_else_is_not_appended_to(tmp_path):
    (tmp_path / "notes").write_text("my notes\n")
    with pytest.raises(BatchError, match="name another file"):
        answered(tmp_path / "notes")


def test_an_empty_file_is_answered_by_an_empty_one(model, tmp_path):
    (tmp_path / "in.jsonl").touch()
    done = subprocess.run(command(model, tmp_path / "in.jsonl", tmp_path / "out.jsonl"), check=False)
    assert (done.returncode, (tmp_path / "out.jsonl").read_text()) == (0, "")
