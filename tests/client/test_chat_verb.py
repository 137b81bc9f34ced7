"""`octavo chat` against a server that answers by a script."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest
from octavo_testing.served import state_of, until

from octavo_engine.cli import chat


def run(server, capsys, monkeypatch, *args: str, lines: str = "") -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    code = chat.main(["--base-url", server.url, *args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_once_prints_the_answer_and_ends(server, capsys, monkeypatch):
    """The answer alone goes to stdout, with a newline."""
    server.words = ("Hello", ", ", "wörld")
    assert run(server, capsys, monkeypatch, "--once", "hi") == (0, "Hello, wörld\n", "")
    (body,) = server.bodies
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    assert body["model"] == "scripted"
    assert "max_tokens" not in body
    assert "temperature" not in body


def test_flags_reach_the_request(server, capsys, monkeypatch):
    """A system message, the length, the temperature and the model."""
    run(
        server, capsys, monkeypatch, "--once", "hi", "--system", "Be brief.", "--max-tokens", "3",
        "--temperature", "0", "--model", "other",
    )  # fmt: skip
    (body,) = server.bodies
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["max_tokens"], body["temperature"], body["model"]) == (3, 0, "other")


def test_each_line_of_a_pipe_is_a_turn_that_follows_those_before(server, capsys, monkeypatch):
    """Empty lines are none, and quit ends."""
    server.words = ("yes",)
    code, out, _ = run(server, capsys, monkeypatch, lines="one\n\ntwo\nquit\nthree\n")
    assert (code, out) == (0, "yes\nyes\n")
    assert [message["content"] for message in server.bodies[-1]["messages"]] == ["one", "yes", "two"]


def test_no_server_is_one_line_that_says_what_to_do(capsys):
    """Exit 1, no traceback."""
    code = chat.main(["--base-url", "http://127.0.0.1:9", "--once", "hi"])
    captured = capsys.readouterr()
    assert code == 1
    assert captured.out == ""
    assert captured.err.startswith("octavo chat: no server answers at http://127.0.0.1:9 (")
    assert captured.err.count("\n") == 1


def test_a_wrong_url_is_one_line(capsys):
    """Exit 1, no traceback."""
    assert chat.main(["--base-url", "nonsense", "--once", "hi"]) == 1
    assert "is not a URL" in capsys.readouterr().err


def test_a_missing_key_is_named(server, capsys, monkeypatch):
    """The key from the environment opens."""
    server.api_key = "secret"
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    code, _, err = run(server, capsys, monkeypatch, "--once", "hi")
    assert code == 1
    assert "401" in err
    assert "OPENAI_API_KEY" in err
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert run(server, capsys, monkeypatch, "--once", "hi")[0] == 0


@pytest.mark.parametrize(("how", "message"), [("break_after", "broke"), ("error_after", "breaking on purpose")])
def test_an_answer_that_breaks_off_is_an_error(server, capsys, monkeypatch, how, message):
    """The part that came is printed, and the exit code is 1."""
    setattr(server, how, 1)
    code, out, err = run(server, capsys, monkeypatch, "--once", "hi")
    assert code == 1
    assert out == "w0 "
    assert message in err


class Terminal:
    """The verb under a terminal of its own."""

    def __init__(self, *args: str) -> None:
        self.master, slave = pty.openpty()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "dumb"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "octavo_engine.cli.chat", *args],
            stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def expect(self, pattern: str) -> None:
        deadline = time.monotonic() + 20
        while not re.search(pattern, self.seen):
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no {pattern!r} in {self.seen!r}"
            self.seen += os.read(self.master, 4096).decode()
        self.seen = self.seen[re.search(pattern, self.seen).end() :]

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def reads(self) -> None:
        """Wait until it sleeps, for a key.

        CPython's readline prints the prompt, then waits for a key; a signal between the two is seen at the next key only.
        """
        until(lambda: state_of(self.process.pid) == "S", 20, "it never waits for a key")

    def close(self) -> int:
        code = self.process.wait(10)
        os.close(self.master)
        return code


def test_ctrl_c_ends_the_answer_and_ctrl_d_the_program(server):
    """What came of the answer stays in the context of the next turn; the server sees the client leave."""
    server.delay = 0.05
    server.words = tuple(f"w{i} " for i in range(1000))
    terminal = Terminal("--base-url", server.url)
    terminal.expect("scripted; Ctrl-C")
    terminal.expect("> ")
    terminal.type("hello\n")
    terminal.expect("w1 ")
    terminal.interrupt()
    terminal.expect(r"\(cut short\)")
    assert server.released.wait(5)
    server.delay, server.words = 0, ("second",)
    terminal.expect("> ")
    terminal.type("more\n")
    terminal.expect("second")
    first, answer, _ = server.bodies[-1]["messages"]
    assert first["content"] == "hello"
    assert answer["role"] == "assistant"
    assert answer["content"].startswith("w0 w1 ")
    terminal.expect("> ")
    terminal.reads()
    terminal.interrupt()
    terminal.expect(r"quit or Ctrl-D ends")
    terminal.expect("> ")
    terminal.type("\x04")
    assert terminal.close() == 0


def test_an_error_does_not_end_a_conversation(server):
    """The turn that failed is not in the context."""
    server.error_after = 0
    terminal = Terminal("--base-url", server.url)
    terminal.expect("> ")
    terminal.type("hello\n")
    terminal.expect("octavo chat: the server breaks off")
    server.error_after = None
    terminal.expect("> ")
    terminal.type("again\n")
    terminal.expect("w0")
    assert [message["content"] for message in server.bodies[-1]["messages"]] == ["again"]
    terminal.expect("> ")
    terminal.type("quit\n")
    assert terminal.close() == 0


@pytest.mark.parametrize(
    ("name", "value", "dimmed"), [("NO_COLOR", "", True), ("NO_COLOR", "1", False), ("TERM", "dumb", False)]
)
def test_the_speed_is_dimmed_only_where_that_is_wanted(monkeypatch, name, value, dimmed):
    """NO_COLOR and a dumb terminal get plain text."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv(name, value)
    assert (chat._dimmed("9/s") == "\x1b[2m9/s\x1b[0m") == dimmed
    assert "9/s" in chat._dimmed("9/s")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_answer_is_printed_whatever_the_terminal_writes(server, encoding):
    """What its encoding lacks is escaped, and the prompt was read as UTF-8."""
    server.words = ("größer", " → ", "日本")
    done = subprocess.run(
        [sys.executable, "-m", "octavo_engine.cli.chat", "--base-url", server.url],
        input="wie groß?\n".encode(encoding if encoding == "latin-1" else "utf-8"),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": encoding},
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode(encoding).startswith(
        "größer -> \\u65e5" if encoding == "latin-1" else "gr\\u00f6\\u00dfer -> \\u65e5"
    )
    assert server.bodies[-1]["messages"][-1]["content"] == "wie groß?"
