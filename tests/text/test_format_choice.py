"""A model's answer format is chosen by a flag, by what its files bring, or by its chat template."""

from __future__ import annotations

import pytest

from octavo_engine.errors import ConfigError
from octavo_engine.text.answer_format import AnswerFormat, Reasoning, format_files
from octavo_engine.text.format_choice import (
    REFUSED_REASONING,
    REFUSED_TOOLS,
    check_names,
    choose_format,
    reasoning_parsers,
    tool_parsers,
)

# The names that vLLM registers (vllm/tool_parsers/__init__.py and vllm/reasoning/__init__.py of 0.33).
TOOL_PARSERS = [
    "dots",
    "deepseek_v3",
    "deepseek_v31",
    "deepseek_v32",
    "deepseek_v4",
    "deepseek_v41",
    "cohere_command3",
    "cohere_command4",
    "ernie45",
    "glm45",
    "glm47",
    "ling3",
    "granite-20b-fc",
    "granite",
    "granite4",
    "hermes",
    "hf",
    "beam",
    "poolside_v1",
    "hunyuan_a13b",
    "hy_v3",
    "hy_v4",
    "internlm",
    "jamba",
    "lfm2",
    "kimi_k2",
    "kimi_k3",
    "k2_horizon",
    "llama3_json",
    "llama4_json",
    "llama4_pythonic",
    "longcat",
    "mimo",
    "minimax_m2",
    "minimax_m3",
    "minicpm5",
    "mistral",
    "olmo3",
    "plamo3",
    "muse",
    "muse_glimmer",
    "musespark1x",
    "openai",
    "phi4_mini_json",
    "pythonic",
    "qwen3_coder",
    "qwen3_json",
    "qwen3_xml",
    "seed_oss",
    "step3",
    "step3p5",
    "step5",
    "inkling",
    "xlam",
    "gigachat3",
    "functiongemma",
    "gemma4",
    "apertus",
]
REASONING_PARSERS = [
    "deepseek_r1",
    "deepseek_v3",
    "deepseek_v4",
    "deepseek_v41",
    "poolside_v1",
    "cohere_command3",
    "cohere_command4",
    "ernie45",
    "gemma4",
    "glm45",
    "glm47",
    "ling3",
    "openai_gptoss",
    "granite",
    "granite_thinking_parser",
    "hf",
    "beam",
    "holo2",
    "hunyuan_a13b",
    "hy_v3",
    "hy_v4",
    "kimi_k2",
    "kimi_k3",
    "k2_horizon",
    "mimo",
    "minicpmv",
    "minimax_m2",
    "minimax_m2_append_think",
    "minimax_m3",
    "mistral",
    "nemotron_v3",
    "olmo3",
    "plamo3",
    "muse",
    "muse_glimmer",
    "musespark1x",
    "qwen3",
    "seed_oss",
    "step3",
    "step3p5",
    "step5",
    "inkling",
]


def test_every_name_of_vllm_is_read_or_refused_with_the_nearest():
    assert {*tool_parsers(), "hf", *REFUSED_TOOLS} >= {*TOOL_PARSERS}
    assert {*reasoning_parsers(), "hf", *REFUSED_REASONING} >= {*REASONING_PARSERS}
    assert not {*REFUSED_TOOLS} & {*tool_parsers()}
    assert not {*REFUSED_REASONING} & {*reasoning_parsers()}


def test_no_two_files_have_the_same_name_of_vllm():
    for names in (
        [n for f in format_files().values() for n in f.tool_parsers],
        [n for f in format_files().values() for n in f.reasoning_parsers],
    ):
        assert len(names) == len(set(names))


@pytest.mark.parametrize("name", sorted(REFUSED_TOOLS))
def test_a_refused_name_says_which_is_near(name):
    with pytest.raises(ConfigError, match=f"--tool-call-parser {name}: .* is the nearest"):
        check_names(name, None)


@pytest.mark.parametrize(
    ("template", "calls", "reasoning"),
    [
        ("{{ tools }} <tool_call>\n{{ call }}\n</tool_call>", "hermes", None),
        ("<tool_call></tool_call><function=x><parameter=y></parameter> <think>", "qwen3_coder", "think"),
        ("<tool_call>x<arg_key></arg_key><arg_value></arg_value></tool_call>", "glm45", None),
        ("<｜tool▁call▁begin｜>function<｜tool▁sep｜>x\\n```json\\n", "deepseek_v3", None),
        ("<｜tool▁call▁begin｜>x<｜tool▁sep｜> </think>", "deepseek_v31", "think"),
        ("[TOOL_CALLS] [THINK]", "mistral", "mistral"),
        ("<|channel|>analysis<|message|>", "harmony", "harmony"),
        ("<|tool_call>call: <|channel>thought", "gemma4", "gemma4"),
        ("{{ messages }}", None, None),
    ],
)
def test_a_format_is_found_by_the_chat_template(template, calls, reasoning):
    found = choose_format(None, None, [template], None)
    files = format_files()
    if calls is None and reasoning is None:
        assert (found.answer_format, found.lines) == (None, ())
        return
    assert found.answer_format.calls == (files[calls].calls if calls else None)
    assert found.answer_format.reasoning == (files[reasoning].reasoning if reasoning else None)
    assert len(found.lines) == (calls is not None) + (reasoning is not None)


def test_a_flag_wins_over_the_template_and_none_leaves_the_text_as_it_is():
    template = ["<tool_call></tool_call><think></think>"]
    assert choose_format("mistral", None, template, None).answer_format.calls.open == ("[TOOL_CALLS]",)
    assert choose_format("none", "none", template, None).answer_format is None
    assert choose_format("llama3_json", "none", template, None).answer_format.reasoning is None


def test_the_models_own_description_wins_over_the_template():
    own = AnswerFormat(name="own", reasoning=Reasoning(open=("<a>",), close=("</a>",)))
    found = choose_format(None, None, ["<tool_call></tool_call><think>"], own)
    assert found.answer_format.reasoning.open == ("<a>",)
    assert found.answer_format.calls.open == ("<tool_call>",)
    assert choose_format(
        "hf", "hf", [], AnswerFormat(name="own", reasoning=own.reasoning, calls=format_files()["hermes"].calls)
    )


@pytest.mark.parametrize(
    ("flags", "flag"), [(("hf", None), "--tool-call-parser"), ((None, "hf"), "--reasoning-parser")]
)
def test_the_models_own_description_must_be_there_where_it_is_named(flags, flag):
    with pytest.raises(ConfigError, match=f"{flag} hf: "):
        choose_format(*flags, ["<tool_call></tool_call>"], None)
