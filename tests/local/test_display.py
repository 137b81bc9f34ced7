"""The display of replicas: plain lines in a log, a table in a terminal that leaves plain lines behind."""

import io

import pytest

from octavo_operator.local.display import Plain, Terminal, display_for


def test_a_log_gets_a_line_for_each_thing():
    stream = io.StringIO()
    display = Plain(stream)
    display.show("hello")
    display.replica("a", "starting", "on port 1")
    display.replica("a", "loading", "loaded the weights")
    display.replica("a", "ready", "")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "hello"
    assert [line.split("s  ", 1)[1] for line in lines[1:]] == [
        "a  starting on port 1",
        "a  loaded the weights",
        "a  ready",
    ]


def test_a_terminal_keeps_what_matters_when_the_table_is_gone():
    stream = io.StringIO()
    display = Terminal(["a", "b"], stream)
    display.replica("a", "loading", "50% [of it]")
    display.replica("a", "ready", "")
    display.replica("b", "ended", "ended with status 1: no luck; it starts again in 1 s")
    display.replica("b", "ready", "")
    display.replica("b", "loading", "a line of its log")
    display.show("a answers")
    text = stream.getvalue()
    assert "a is ready after" in text
    assert "b ended with status 1: no luck" in text
    assert text.splitlines()[-2].endswith("b  a line of its log")
    assert text.splitlines()[-1] == "a answers"


def test_lines_that_look_like_markup_are_shown_as_they_are():
    stream = io.StringIO()
    display = Terminal(["a"], stream)
    display.show("[bold]not markup[/]")
    display.close()
    assert "[bold]not markup[/]" in stream.getvalue()


@pytest.mark.parametrize(("tty", "kind"), [(True, Terminal), (False, Plain)])
def test_the_table_is_for_terminals_only(tty, kind, monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: tty
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with display_for(["a"]) as display:
        assert type(display) is kind


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "dumb")
    with display_for(["a"]) as display:
        assert type(display) is Plain
        display.show("hello")
    assert stream.getvalue() == "hello\n"
