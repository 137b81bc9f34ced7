"""A chat template that can't be used is named at the start, in one sentence; completions do not need one."""

from __future__ import annotations

import json
import shutil

import pytest
from octavo_testing.served import Served

SYNTAX = "{% for m in messages %}{{ m.content }"


def folder_with(fake_model, tmp_path, template, name="chat_template.jinja"):
    """A copy of the model with another template: in its configuration, or as a file of its own."""
    folder = tmp_path / "model"
    shutil.copytree(fake_model, folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    if isinstance(template, bytes):
        (folder / name).write_bytes(template)
    else:
        config["chat_template"] = template
    path.write_text(json.dumps(config))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("template", [SYNTAX, "{% endfor %}", [{"name": "default", "template": SYNTAX}]])
def test_the_models_own_template_is_a_warning(fake_model, tmp_path, template):
    """A chat says it too, and that another template can be given."""
    with Served(folder_with(fake_model, tmp_path, template)) as server:
        assert "Traceback" not in server.output
        (warning,) = [line for line in server.lines if "WARNING" in line]
        assert "template" in warning
        assert server.post("/v1/completions", {"prompt": "hi", "max_tokens": 1})[0] == 200
        chat = {"messages": [{"role": "user", "content": "hi"}]}
        status, answer, _ = server.post("/v1/chat/completions", chat)
        assert (status, answer["error"]["param"]) == (400, "messages")
        assert "template" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("template", "file"),
    [
        (b"\xff\xfe{{ messages }}", "chat_template.jinja"),
        ([{"name": "default"}], "tokenizer"),
        pytest.param([{"template": "x"}], "tokenizer", marks=pytest.mark.slow),
        pytest.param(["x"], "tokenizer", marks=pytest.mark.slow),
    ],
)
def test_a_template_that_cannot_be_read_ends_the_start(fake_model, tmp_path, template, file):
    """Any file of the model that can't be read ends the start."""
    server = Served(folder_with(fake_model, tmp_path, template), wait=False)
    try:
        assert server.wait() == 1
        assert "Traceback" not in server.output
        assert file in server.lines[-1]
    finally:
        server.close()


@pytest.mark.slow
def test_a_byte_order_mark_is_no_part_of_a_template(fake_model, tmp_path):
    """A mark there would stand in every prompt."""
    with Served(folder_with(fake_model, tmp_path, b"\xef\xbb\xbf{{ messages[0].content }}")) as server:
        answer = server.post("/tokenize", {"messages": [{"role": "user", "content": "hi"}]})[1]
        assert answer["count"] == 2


@pytest.mark.slow
def test_the_flags_template_ends_the_start(fake_model):
    """The user named it, so it is the user's to correct."""
    server = Served(fake_model, "--chat-template", SYNTAX, wait=False)
    try:
        assert server.wait() == 1
        assert "Traceback" not in server.output
        assert "octavo serve: --chat-template can't be used: " in server.lines[-1]
    finally:
        server.close()
