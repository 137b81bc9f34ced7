"""Chats rendered to prompts: as transformers renders them, whatever a template tries."""

from __future__ import annotations

import os
import time
import warnings
from datetime import datetime
from pathlib import Path

import pytest
from templates import ALL, CHATML, PARTS, TOOL, TOOLS

from octavo_engine.errors import RequestError
from octavo_engine.text import template_process
from octavo_engine.text.chat_template import ChatTemplate

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
USER = [{"role": "user", "content": "Hi"}]
CHATS = {
    "one turn": USER,
    "with a system message": [{"role": "system", "content": "Be brief. "}, *USER],
    "three turns": [
        {"role": "user", "content": " What is <b> & 'c'?\n"},
        {"role": "assistant", "content": "A letter.  "},
        {"role": "user", "content": "日本 🙂 {{ messages }} {% raw %}"},
    ],
}


@pytest.fixture(scope="module", autouse=True)
def reference():
    """transformers' renderer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # another project's
        from transformers.utils.chat_template_utils import render_jinja_template

    def render(template, messages, **variables):
        return render_jinja_template([messages], chat_template=template, **SPECIAL, **variables)[0][0]

    return render


@pytest.fixture
def make():
    """Makes chat templates, whose processes end with the test."""
    made = []

    def build(templates=None, special=SPECIAL, **options):
        made.append(ChatTemplate(templates or {}, special, **options))
        return made[-1]

    yield build
    for template in made:
        template.close()


@pytest.fixture(scope="module")
def rendered():
    """Renders with any template, in one process for all tests."""
    templates = {}

    def render(template, messages, **options):
        if template not in templates:
            templates[template] = ChatTemplate({"default": template}, SPECIAL)
        return templates[template].render(messages, **options)

    yield render
    for template in templates.values():
        template.close()


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", ALL)
def test_templates_render_as_in_transformers(name, chat, prompt, rendered, reference):
    """Every shape, with and without the generation prompt."""
    ours = rendered(ALL[name], CHATS[chat], add_generation_prompt=prompt)
    assert ours == reference(ALL[name], CHATS[chat], add_generation_prompt=prompt)


def test_smollm2s_template_renders_as_in_transformers(smollm2_tokenizer, make, reference):
    """The one in the GGUF, which adds a system message of its own."""
    text = smollm2_tokenizer.chat_templates["default"]
    ours = make(smollm2_tokenizer.chat_templates, smollm2_tokenizer.special_tokens)
    for chat in CHATS.values():
        assert ours.render(chat) == reference(text, chat, add_generation_prompt=True)
    assert "helpful AI assistant named SmolLM" in ours.render(USER)


def test_tools_documents_and_variables_reach_the_template(rendered, reference):
    """JSON unescaped, calls' arguments parsed from the string that clients send, thoughts under every name."""
    arguments = {"city": "Ås", "days": [1, 2]}
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    sent = {**call, "function": {"name": "weather", "arguments": '{"city": "Ås", "days": [1, 2]}'}}
    before = [{"role": "user", "content": "Rain?"}, {"role": "comment", "content": "left out"}]
    after = [{"role": "tool", "content": "dry", "tool_call_id": "1"}]
    thought = {"role": "assistant", "content": "", "reasoning": "hm"}
    options = {
        "tools": [TOOL],
        "documents": [{"title": "t", "text": "x"}],
        "add_generation_prompt": True,
    }
    ours = rendered(
        TOOLS, [*before, {**thought, "tool_calls": [sent]}, *after], variables={"enable_thinking": False}, **options
    )
    theirs = reference(TOOLS, [*before, {**thought, "tool_calls": [call]}, *after], enable_thinking=False, **options)
    assert ours == theirs
    assert "<think>hm</think>" in ours
    assert '{"city": "Ås", "days": [1, 2]}' in ours
    assert "thinking off" in ours
    assert "weather(city, unit)" in ours


@pytest.mark.parametrize("content", ["Once upon a time", "Trailing space ", "  both  ", "two\nlines\n"])
@pytest.mark.parametrize("name", ["chatml", "headers", "generation", "parts"])
def test_a_final_message_is_continued_as_in_transformers(name, content, rendered, reference):
    """Nothing follows it, and its end is trimmed where the template trims."""
    chat = [*USER, {"role": "assistant", "content": content}]
    ours = rendered(ALL[name], chat, add_generation_prompt=False, continue_final_message=True)
    assert ours == reference(ALL[name], chat, continue_final_message=True)
    assert ours.endswith((content, content.strip()))


def test_the_time_is_now(rendered):
    """In the machine's own time zone."""
    assert rendered("{{ strftime_now('%Y-%m') }}", USER) == datetime.now().strftime("%Y-%m")  # noqa: DTZ005


@pytest.mark.parametrize(
    ("template", "expected"),
    [(CHATML, "<|im_start|>user\none\ntwo<|im_end|>\n"), (PARTS, "<user>onetwo\n")],
    ids=["string", "openai"],
)
def test_parts_become_what_the_template_reads(template, expected, rendered):
    """Joined by newlines for one that reads a string; a list, for one that walks over parts."""
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert rendered(template, [{"role": "user", "content": parts}], add_generation_prompt=False) == expected


def test_a_string_becomes_a_part_for_a_template_that_walks_over_parts(make):
    """This holds for a template that would fail on a string, too."""
    template = "{% for m in messages %}{% for part in m.content %}[{{ part.text }}]{% endfor %}{% endfor %}"
    assert make({"default": template}).render(USER) == "[Hi]"
    assert make({"default": template}, content_format="string").render(USER) == "[][]"


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{% set c = m['content'] %}{% for x in c %}{{ x.text }}{% endfor %}{% endfor %}",
        "{% macro show(content) %}{% for x in content %}{{ x.text }}{% endfor %}{% endmacro %}{{ show(messages[0].content) }}",
        "{% for x in messages[0].content | selectattr('type', 'equalto', 'text') %}{{ x.text }}{% endfor %}",
    ],
    ids=["alias", "macro", "filter"],
)
def test_walking_over_parts_is_recognized_however_it_is_written(template, rendered):
    """Through a variable, a macro's argument or a filter."""
    assert rendered(template, USER) == "Hi"


def test_absent_and_null_content_is_empty(rendered):
    """Messages of tool calls only have none."""
    for message in ({"role": "assistant"}, {"role": "assistant", "content": None, "name": None}):
        assert rendered(CHATML, [message], add_generation_prompt=False) == "<|im_start|>assistant\n<|im_end|>\n"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "messages[1].content[0].type",
        ),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_audio"}]},
            "messages[1].content[1].type",
        ),
        ({"role": "user", "content": [7]}, "messages[1].content[0].type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[1].content[0].text"),
        ({"role": "user", "content": 7}, "messages[1].content"),
        ({"content": "x"}, "messages[1].role"),
        ("x", "messages[1]"),
        ({"role": "assistant", "tool_calls": {}}, "messages[1].tool_calls"),
        ({"role": "assistant", "tool_calls": [{}]}, "messages[1].tool_calls[0].function"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
            "messages[1].tool_calls[0].function.arguments",
        ),
    ],
)
def test_what_is_wrong_in_a_message_is_named(message, param, rendered):
    """The name is its path."""
    with pytest.raises(RequestError) as refused:
        rendered(CHATML, [*USER, message])
    assert refused.value.param == param
    assert refused.value.status == 400


def test_no_messages_are_refused(rendered):
    """transformers and vLLM refuse them as well."""
    with pytest.raises(RequestError, match="empty"):
        rendered(CHATML, [])


def test_without_a_template_the_remedy_is_named(make):
    """A base model can't chat."""
    with pytest.raises(RequestError, match="--chat-template") as refused:
        make().render(USER)
    assert refused.value.param == "messages"


def test_the_servers_own_template_wins_over_the_models(make):
    """The server's own serves where the model has none, too."""
    assert make({"default": CHATML}, override="own").render(USER) == "own"
    assert make(override="own").render(USER) == "own"


def test_a_template_for_tools_is_used_with_tools(make):
    """transformers chooses so among several."""
    template = make({"default": "plain", "tool_use": "tools"})
    assert template.render(USER) == "plain"
    assert template.render(USER, tools=[TOOL]) == "tools"
    with pytest.raises(RequestError, match="none is the default"):
        make({"rag": "x", "tool_use": "y"}).render(USER)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"continue_final_message": True}, "continue_final_message"),
        ({"variables": {"messages": []}}, "chat_template_kwargs.messages"),
        ({"continue_final_message": True, "add_generation_prompt": False}, "messages"),
    ],
)
def test_options_that_contradict_are_refused(options, param, rendered):
    """The last: the final message has no text."""
    chat = [*USER, {"role": "assistant", "content": []}]
    with pytest.raises(RequestError) as refused:
        rendered(PARTS, chat, **options)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no such role') }}", "the chat template refuses these messages: no such role"),
        ("{% if %}", "is not valid Jinja: line 1"),
        ("\n{% endfor %}", "is not valid Jinja: line 2"),
        ("{{ messages.a.b }}", "can't render these messages: UndefinedError"),
        ("{{ 1 + 'x' }}", "TypeError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{% set ns = namespace(_x=1) %}", "SecurityError"),
        ("{% include '/etc/passwd' %}", "TypeError"),
        ("{{ range(10**9) | list }}", "OverflowError"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recurses too deeply"),
        ("{{ 'x' | center(10**10) }}", "more memory than it may have"),
        ("{% for i in range(9) %}{{ 'x' * 10**7 }}{% endfor %}", "more than 33554432 characters"),
    ],
)  # fmt: skip
def test_a_template_that_fails_is_the_requests_error(template, message, rendered):
    """One sentence, naming messages; the next chat is rendered as ever."""
    with pytest.raises(RequestError, match="the chat template") as refused:
        rendered(template, USER)
    assert message in str(refused.value)
    assert refused.value.param == "messages"
    assert rendered(CHATML, USER)


@pytest.mark.parametrize(
    "template",
    [
        "{% for x in range(99999) %}{% for y in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 3 ** (3 ** 30) }}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    ],
    ids=["loops", "one call", "recursion", "text of nested lists"],
)
def test_a_hostile_template_is_really_ended(template, make):
    """At the deadline: its process is gone, and the next chat has a new one."""
    hostile = make({"default": CHATML}, seconds=0.6)
    assert hostile.render(USER)
    start = time.monotonic()
    with pytest.raises(RequestError, match=r"did not render within 0\.6 s") as refused:
        hostile.render(USER, chat_template=template)
    assert time.monotonic() - start < 6
    assert refused.value.param == "chat_template"
    assert hostile._foreign._process is None
    assert hostile.render(USER, chat_template="fine") == "fine"


def test_a_renderer_that_starts_slowly_is_waited_for(make, monkeypatch, tmp_path):
    """Where the CPU is scarce, as under a small quota, the start of its process is no template's fault."""
    slow = tmp_path / "slow.py"
    slow.write_text(
        f"import runpy, time\ntime.sleep(1)\nrunpy.run_path({str(template_process.WORKER)!r}, run_name='__main__')"
    )
    monkeypatch.setattr(template_process, "WORKER", slow)
    monkeypatch.setattr(template_process, "KILL_AFTER", 0.0)
    template = make({"default": CHATML}, seconds=0.5)
    template.check()
    assert template.render(USER) == make({"default": CHATML}).render(USER)


def test_a_template_of_a_request_does_not_hold_up_the_models(make):
    """The two are rendered in different processes."""
    import threading

    template = make({"default": CHATML}, seconds=2)
    template.render(USER)
    endless = "{% for x in range(99999) %}{% for y in range(99999) %}{% endfor %}{% endfor %}"

    def ask() -> None:
        with pytest.raises(RequestError):
            template.render(USER, chat_template=endless)

    hostile = threading.Thread(target=ask)
    hostile.start()
    time.sleep(0.2)
    start = time.monotonic()
    assert template.render(USER)
    assert time.monotonic() - start < 1
    hostile.join()


def test_the_process_ends_with_its_owner_and_sees_no_secrets(make, monkeypatch):
    """Closed means gone; keys and tokens of the environment are not handed on."""
    monkeypatch.setenv("HF_TOKEN", "secret")
    template = make({"default": CHATML})
    template.start()
    process = template._own._process
    assert template.render(USER)
    assert b"HF_TOKEN" not in Path(f"/proc/{process.pid}/environ").read_bytes()
    template.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    assert template.render(USER)  # it can be used again


def test_rendering_is_quick(make):
    """A tenth of a millisecond; here with room for a busy machine."""
    template = make({"default": CHATML})
    template.render(USER)
    start = time.perf_counter()
    for _ in range(100):
        template.render(USER)
    assert time.perf_counter() - start < 1


TEXT_ONLY = (
    "{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('no such role') }}{% endif %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
)
IGNORES = "{% for m in messages %}{% if m.role == 'system' %}[{{ m.content }}]{% endif %}{% endfor %}"
DEVELOPER_ROLE = "{% for m in messages %}{% if m.role == 'developer' %}<{{ m.content }}>{% endif %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "text"),
    [(TEXT_ONLY, "[system] be brief\n[user] a\n"), (IGNORES, "[be brief]"), (DEVELOPER_ROLE, "<be brief>")],
)
def test_the_developer_role_is_the_system_role_where_a_template_does_not_know_it(make, template, text):
    """OpenAI's newer name: a template that does not name it refuses it, or leaves out what it says."""
    messages = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": "a"}]
    assert make({"default": template}).render(messages) == text
    assert messages[0]["role"] == "developer"


def test_what_a_client_sends_back_with_empty_fields_is_as_if_they_were_absent(make):
    """Templates ask whether a message has `tool_calls`, and count them."""
    template = "{% for m in messages %}{{ m.keys() | sort | join(',') }};{% endfor %}"
    answer = {"role": "assistant", "content": "yes", "tool_calls": [], "refusal": None, "function_call": None}
    assert make({"default": template}).render([answer]) == "content,role;"
    calls = [{"type": "function", "function": {"name": "f", "arguments": ""}}]
    assert make({"default": template}).render([{**answer, "tool_calls": calls}]) == "content,role,tool_calls;"


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"content_format": "string"}])
def test_a_template_that_is_not_valid_is_found_before_the_first_chat(make, options):
    """The message names it and the line."""
    make({"default": CHATML, "tool_use": CHATML}, **options).check()
    make({}).check()
    with pytest.raises(RequestError, match=r"'tool_use'.*line 2"):
        make({"default": CHATML, "tool_use": "\n{{ m.content }"}, **options).check()
