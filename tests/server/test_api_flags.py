"""Flags of the API's own behavior, on one server that has them all."""

from __future__ import annotations

import json

import pytest
from octavo_testing.served import Served, until

from octavo_engine.config import ModelConfig, ModelFiles
from octavo_engine.errors import ConfigError
from octavo_engine.weights.generation_config import read_generation_defaults

MESSAGES = [{"role": "user", "content": "hello"}]
TEMPLATE = "{{ tone }}{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"


@pytest.fixture(scope="module")
def flagged(fake_model):
    arguments = (
        *(
            "--response-role",
            "helper",
            "--default-chat-template-kwargs",
            '{"tone": "kind "}',
            "--chat-template",
            TEMPLATE,
        ),
        *("--enable-force-include-usage", "--return-tokens-as-token-ids", "--enable-prompt-tokens-details"),
        *("--enable-log-requests", "--enable-log-outputs", "--enable-tokenizer-info-endpoint", "--enable-scale-out"),
        *("--override-generation-config", '{"temperature": 0, "max_new_tokens": 3}'),
    )
    with Served(fake_model, *arguments, env={"VLLM_SERVER_DEV_MODE": "1"}) as server:
        yield server


def stream(served, path, body):
    status, text, _ = served.request("POST", path, {**body, "stream": True})
    assert status == 200
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def test_the_role_of_answers_is_the_flags(flagged):
    """Streamed and whole; an answer that continues a message has that message's."""
    body = {"messages": MESSAGES}
    assert flagged.post("/v1/chat/completions", body)[1]["choices"][0]["message"]["role"] == "helper"
    assert stream(flagged, "/v1/chat/completions", body)[0]["choices"][0]["delta"]["role"] == "helper"
    continued = {**body, "add_generation_prompt": False, "continue_final_message": True}
    assert flagged.post("/v1/chat/completions", continued)[1]["choices"][0]["message"]["role"] == "user"


def test_template_variables_are_the_flags_unless_a_request_has_them(flagged):
    def prompt(**fields):
        tokens = flagged.post("/tokenize", {"messages": MESSAGES, **fields})[1]["tokens"]
        return flagged.post("/detokenize", {"tokens": tokens})[1]["prompt"]

    assert prompt() == "kind user:hello;"
    assert prompt(chat_template_kwargs={"tone": "curt "}) == "curt user:hello;"


def test_sampling_defaults_are_the_flags(flagged):
    """Answers are greedy and end after three tokens unless a request says otherwise."""

    def params(**fields):
        params = flagged.post("/v1/chat/completions/render", {"messages": MESSAGES, **fields})[1]["sampling_params"]
        return params["temperature"], params["max_tokens"]

    assert params() == (0, 3)
    assert params(temperature=0.5, max_tokens=4) == (0.5, 4)
    assert flagged.post("/v1/chat/completions", {"messages": MESSAGES})[1]["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize(
    ("text", "says"), [('{"beams": 3}', "beams"), ('{"temperature": -1}', "temperature"), ('{"top_p": "x"}', "top_p")]
)
def test_a_wrong_sampling_default_ends_the_start(tmp_path, text, says):
    (tmp_path / "config.json").write_text("{}")
    files = ModelFiles(
        folder=tmp_path, config=tmp_path / "config.json", weights=(), weights_format="dummy", tokenizer=None
    )
    with pytest.raises(ConfigError, match=says):
        read_generation_defaults(ModelConfig(model="m", served_model_names=("m",), generation_overrides=text), files)


def test_every_event_of_a_stream_has_its_usage(flagged):
    *events, last = stream(flagged, "/v1/completions", {"prompt": "hello", "max_tokens": 2})
    assert all(event["usage"]["prompt_tokens"] == 5 for event in events)
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 2)
    assert last["usage"]["prompt_tokens_details"]["cached_tokens"] >= 0


@pytest.mark.parametrize(("fields", "sizes"), [({}, [1, 1, 1, 1, 1, 1, 1]), ({"stream_interval": 3}, [1, 3, 3])])
def test_a_stream_sends_as_many_tokens_at_once_as_asked(fake_model, fields, sizes):
    """The first one comes alone; together they are the same answer."""
    body = {"prompt": "hello", "max_tokens": 7, "seed": 1, "logprobs": 0, "return_token_ids": True}
    with Served(fake_model, step_seconds=0.05) as slow:
        whole = slow.post("/v1/completions", body)[1]["choices"][0]
        parts = [chunk["choices"][0] for chunk in stream(slow, "/v1/completions", {**body, **fields})]
    assert [len(part["token_ids"]) for part in parts] == sizes
    assert "".join(part["text"] for part in parts) == whole["text"]
    assert [token for part in parts for token in part["logprobs"]["tokens"]] == whole["logprobs"]["tokens"]


def test_tokens_are_spelled_by_their_ids_unless_a_request_declines(flagged):
    def token(**fields):
        body = {"prompt": "x", "max_tokens": 1, "logprobs": 0, **fields}
        return flagged.post("/v1/completions", body)[1]["choices"][0]["logprobs"]["tokens"][0]

    assert token().startswith("token_id:")
    assert not token(return_tokens_as_token_ids=False).startswith("token_id:")


def test_an_answers_text_is_logged(flagged):
    _, answer, _ = flagged.post("/v1/completions", {"prompt": "log me", "max_tokens": 4, "request_id": "logged"})
    line = f"cmpl-logged, choice 0, ended by length: {answer['choices'][0]['text']!r}"
    until(lambda: line in flagged.output, 5)


def test_the_tokenizers_configuration_is_shown_where_a_flag_allows_it(flagged, served):
    info = flagged.get("/tokenizer_info")[1]
    assert (info["tokenizer_class"], info["chat_template"]) == ("PreTrainedTokenizerFast", TEMPLATE)
    assert served.get("/tokenizer_info")[0] == 404


def test_endpoints_for_development_are_served_in_that_mode_only(flagged, served):
    for path in ("/pause", "/resume", "/reset_prefix_cache", "/sleep", "/wake_up"):
        assert served.post(path, None)[0] == 404
    assert flagged.get("/is_sleeping")[1] == {"is_sleeping": False}
    status, answer, _ = flagged.post("/sleep", None)
    assert (status, "/pause" in answer["error"]["message"]) == (501, True)


def test_the_prefix_cache_is_dropped_on_demand(flagged):
    def cached():
        answer = flagged.post("/v1/completions", {"prompt": "a prompt that is long enough", "max_tokens": 1})[1]
        return answer["usage"]["prompt_tokens_details"]["cached_tokens"]

    assert (cached(), cached() > 0) == (0, True)
    assert flagged.post("/reset_prefix_cache", None)[0] == 200
    assert cached() == 0


def test_a_response_carries_the_load_in_the_form_that_is_asked_for(served):
    body = {"prompt": "x", "max_tokens": 1}
    plain, text, form = (
        served.post("/v1/completions", body, headers={"endpoint-load-metrics-format": form} if form else {})[2]
        for form in ("", "TEXT", "json")
    )
    assert "endpoint-load-metrics" not in {name.lower() for name in plain}
    assert text["endpoint-load-metrics"].startswith("TEXT named_metrics.kv_cache_usage_perc=")
    assert "num_requests_waiting" in json.loads(form["endpoint-load-metrics"].removeprefix("JSON "))["named_metrics"]
