"""A model without a chat template chats in its family's format, and an answer ends where the next turn begins."""

from __future__ import annotations

import json

import pytest
from octavo_testing.served import Served, write_model
from openai import OpenAI

from octavo_engine.text.tokenizer import load_tokenizer_json

MESSAGES = [
    {"role": "system", "content": "You are a helpful Kubernetes expert."},
    {"role": "user", "content": "What is a Pod?"},
]
PROMPT = "You are a helpful Kubernetes expert.\nInstruct: What is a Pod?\nOutput:"
FAKE = {"model_type": "fake", "hidden_size": 2560}  # phi-2's: its format is that of this size
ANSWER = " Containers.\n\nInstruct: Why?\nOutput: So."


def model_of(folder, architecture, template=None):
    """A model that recites ANSWER, and brings no template."""
    write_model(folder)
    (folder / "config.json").write_text(json.dumps(FAKE | {"architectures": [architecture]}))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["chat_template"]
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    ids = load_tokenizer_json(folder / "tokenizer.json").encode(ANSWER, add_special_tokens=False)
    return folder, {"FAKE_ANSWER": json.dumps(ids)}


def warnings_of(server):
    return [line for line in server.lines if "WARNING" in line]


@pytest.fixture(scope="module")
def phi(tmp_path_factory):
    folder, env = model_of(tmp_path_factory.mktemp("phi") / "model", "PhiForCausalLM")
    with Served(folder, "--served-model-name", "microsoft/phi-2", "--trust-request-chat-template", env=env) as server:
        yield server


def ask(server, path="/v1/chat/completions", **fields):
    body = {"max_tokens": 60, **({"messages": MESSAGES} if "chat" in path else {"prompt": PROMPT}), **fields}
    status, answer, _ = server.post(path, body)
    assert status == 200, answer
    choice = answer["choices"][0]
    return choice.get("text") or choice["message"]["content"], choice["finish_reason"]


def test_the_tutorials_chatbot_talks_in_turns(phi):
    """Its loop, over the openai package: each answer ends before the model asks itself the next question."""
    with OpenAI(base_url=f"{phi.url}/v1", api_key="not-needed", max_retries=0) as client:
        messages = MESSAGES[:1]
        for _ in range(2):
            messages.append(MESSAGES[1])
            response = client.chat.completions.create(
                model="microsoft/phi-2", messages=messages, max_tokens=60, temperature=0.7
            )
            choice = response.choices[0]
            assert (choice.message.content, choice.finish_reason) == (" Containers.", "stop")
            messages.append({"role": "assistant", "content": choice.message.content})
        assert response.usage.completion_tokens == len(" Containers.\n\nInstruct:")


def test_a_stream_stops_there_too(phi):
    """No part of the stop string is sent before it is known to be one."""
    with OpenAI(base_url=f"{phi.url}/v1", api_key="not-needed", max_retries=0) as client:
        stream = client.chat.completions.create(model="microsoft/phi-2", messages=MESSAGES, max_tokens=60, stream=True)
        choices = [chunk.choices[0] for chunk in stream]
    assert "".join(choice.delta.content or "" for choice in choices) == " Containers."
    assert choices[-1].finish_reason == "stop"


def test_the_prompt_is_written_as_documented(phi):
    answer = phi.post("/tokenize", {"messages": MESSAGES})[1]
    assert phi.post("/detokenize", {"tokens": answer["tokens"]})[1]["prompt"] == PROMPT


def test_one_warning_names_the_template_and_the_flag(phi):
    (warning,) = warnings_of(phi)
    assert "the model has no chat template: chats use the built-in one of its family, phi-2" in warning
    assert "--chat-template phi-2" in warning


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"stop": "tain"}, (" Con", "stop")),
        ({"stop": ["Why"]}, (" Containers.", "stop")),
        ({"stop": "tain", "include_stop_str_in_output": True}, (" Contain", "stop")),
        ({"include_stop_str_in_output": True}, (" Containers.", "stop")),
        ({"stop": "\n\nInstruct:", "include_stop_str_in_output": True}, (" Containers.\n\nInstruct:", "stop")),
        ({"stop": [f"unlikely {i}" for i in range(128)]}, (" Containers.", "stop")),
        ({"ignore_eos": True}, ((ANSWER * 2)[:60], "length")),
        ({"min_tokens": 30}, (ANSWER[: ANSWER.index("\nOutput")], "stop")),
        ({"chat_template": "{{ messages[0].content }}"}, ((ANSWER * 2)[:60], "length")),
    ],
    ids=lambda value: "" if isinstance(value, tuple) else next(iter(value)),
)
def test_a_requests_own_fields_keep_their_meaning(phi, fields, expected):
    """The template's stops are added to the request's; they are like EOS, and not there for its own template."""
    assert ask(phi, **fields) == expected


def test_completions_do_not_stop_there(phi):
    """Completions have no turns."""
    assert ask(phi, "/v1/completions") == ((ANSWER * 2)[:60], "length")


def test_a_flag_names_the_template_of_any_model(tmp_path):
    """In place of its own, and without a warning. The fake tokenizer adds no BOS, so the template writes none."""
    folder, env = model_of(tmp_path / "model", "LlamaForCausalLM", template="{{ messages }}")
    with Served(folder, "--chat-template", "chatml", env=env) as server:
        tokens = server.post("/tokenize", {"messages": MESSAGES[1:]})[1]["tokens"]
        text = server.post("/detokenize", {"tokens": tokens})[1]["prompt"]
        assert text == "<|im_start|>user\nWhat is a Pod?<|im_end|>\n<|im_start|>assistant\n"
        assert not warnings_of(server)


@pytest.mark.slow
def test_a_models_own_template_is_not_replaced(tmp_path):
    """An answer to such a template does not end at another format's stops either."""
    folder, env = model_of(tmp_path / "model", "PhiForCausalLM", template="{{ messages[0].content }}")
    with Served(folder, env=env) as server:
        assert ask(server) == ((ANSWER * 2)[:60], "length")
        assert not warnings_of(server)


def test_where_authors_document_no_format_a_chat_is_refused_with_the_names(tmp_path):
    """The refusal names the built-in templates; completions are served."""
    folder, env = model_of(tmp_path / "model", "GPTNeoXForCausalLM")
    with Served(folder, env=env) as server:
        status, answer, _ = server.post("/v1/chat/completions", {"messages": MESSAGES})
        assert status == 400
        assert (
            "--chat-template FILE or the name of a built-in one (alpaca, chatml, falcon, phi-2, vicuna)"
            in (answer["error"]["message"])
        )
        assert ask(server, "/v1/completions")[1] == "length"
        assert not warnings_of(server)


@pytest.mark.slow
def test_a_tokenizer_that_adds_bos_gets_it_in_chats(tmp_path):
    """The fake tokenizer adds it, as set; a template writes what the tokenizer would put before a text."""
    folder, env = model_of(tmp_path / "model", "LlamaForCausalLM")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "add_bos_token": True}))
    with Served(folder, "--chat-template", "vicuna", env=env) as server:
        tokens = server.post("/tokenize", {"messages": MESSAGES[1:]})[1]["tokens"]
        assert server.post("/detokenize", {"tokens": tokens})[1]["prompt"].startswith("<s>A chat between")
