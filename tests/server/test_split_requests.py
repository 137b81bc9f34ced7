"""Requests that are split: rendered, generated from token ids, and derendered give what the whole request gives."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request

import pytest
from octavo_testing.served import Served, until

MESSAGES = [{"role": "user", "content": "hello"}]
BODY = {"messages": MESSAGES, "max_tokens": 12, "seed": 7, "temperature": 1.0, "return_token_ids": True}


@pytest.fixture(scope="module")
def split(fake_model):
    """A server with the endpoints that split a request."""
    with Served(fake_model, "--served-model-name", "fake", "--enable-scale-out") as server:
        yield server


def events(text):
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def test_without_the_flag_they_are_refused_by_name(served):
    for path in ("/v1/completions/render", "/v1/chat/completions/derender", "/inference/v1/generate"):
        status, answer, _ = served.post(path, {})
        assert status == 403
        assert "--enable-scale-out" in answer["error"]["message"]


def test_what_is_rendered_generates_what_the_chat_answers(split):
    """With the model's defaults, the request's own parameters and its seed; the answer is then derendered to the same."""
    _, chat, _ = split.post("/v1/chat/completions", BODY)
    status, rendered, _ = split.post("/v1/chat/completions/render", {**BODY, "request_id": "mine"})
    assert (status, rendered["request_id"]) == (200, "chatcmpl-mine")
    assert rendered["token_ids"] == chat["prompt_token_ids"]
    _, generated, _ = split.post("/inference/v1/generate", rendered)
    assert generated["choices"][0]["token_ids"] == chat["choices"][0]["token_ids"]
    body = {"generate_response": generated, "chat_request": BODY, "prompt_tokens": len(rendered["token_ids"])}
    _, derendered, _ = split.post("/v1/chat/completions/derender", body)
    assert derendered["choices"] == chat["choices"]
    assert derendered["usage"] == chat["usage"]


def test_each_prompt_is_rendered_with_the_place_of_its_tokens(split):
    """What is cut off a prompt has no place."""
    body = {"prompt": ["abc", "wxyz"], "return_token_offsets": True, "truncate_prompt_tokens": 2, "request_id": "r"}
    _, rendered, _ = split.post("/v1/completions/render", body)
    assert [each["request_id"] for each in rendered] == ["cmpl-r-0", "cmpl-r-1"]
    assert [each["token_offsets"] for each in rendered] == [[[1, 2], [2, 3]], [[2, 3], [3, 4]]]


def test_conversations_of_other_apis_are_rendered_as_chats(split):
    _, chat, _ = split.post("/v1/chat/completions/render", {"messages": MESSAGES})
    _, message, _ = split.post("/v1/messages/render", {"messages": MESSAGES, "max_tokens": 3})
    _, response, _ = split.post("/v1/responses/render", {"input": "hello", "max_output_tokens": 4})
    assert chat["token_ids"] == message["token_ids"] == response["token_ids"]
    assert (message["sampling_params"]["max_tokens"], response["sampling_params"]["max_tokens"]) == (3, 4)
    assert split.post("/v1/responses/render", {"input": "x", "previous_response_id": "y"})[0] == 400


def test_a_constraint_goes_with_the_rendered_request(split):
    """Its grammar holds the tokens that another server generates."""
    body = {"messages": MESSAGES, "max_tokens": 20, "structured_outputs": {"choice": ["yes", "no"]}}
    _, rendered, _ = split.post("/v1/chat/completions/render", body)
    _, generated, _ = split.post("/inference/v1/generate", {**rendered, "output_mode": "text"})
    assert generated["choices"][0]["text"] in {"yes", "no"}


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_stream_is_derendered_chunk_by_chunk(split, size):
    """However its tokens are cut: the texts together are those of the whole, and the role comes once."""
    _, chat, _ = split.post("/v1/chat/completions", BODY)
    tokens = chat["choices"][0]["token_ids"]
    pieces = [tokens[at : at + size] for at in range(0, len(tokens), size)]
    state, text, roles = None, "", []
    for i, piece in enumerate(pieces):
        choice = {"index": 0, "token_ids": piece, "finish_reason": "length" if i == len(pieces) - 1 else None}
        body = {"stream": True, "generate_chunk": {"choices": [choice]}, "stream_state": state}
        _, answer, _ = split.post("/v1/chat/completions/derender", body)
        state, (chunk,) = answer["stream_state"], answer["chunk"]["choices"]
        text += chunk["delta"].get("content", "")
        roles.append(chunk["delta"].get("role"))
    assert text == chat["choices"][0]["message"]["content"]
    assert roles == ["assistant", *[None] * (len(pieces) - 1)]
    assert chunk["finish_reason"] == "length"


def test_completions_are_derendered_with_their_log_probabilities(split):
    """The numbers are those that the server of the whole request gives."""
    body = {"prompt": "hello", "max_tokens": 5, "logprobs": 2, "seed": 3, "return_token_ids": True}
    _, whole, _ = split.post("/v1/completions", body)
    _, (rendered,), _ = split.post("/v1/completions/render", body)
    _, generated, _ = split.post("/inference/v1/generate", rendered)
    entry = generated["choices"][0]["logprobs"]["content"][0]
    assert entry["top_logprobs"][0] == {name: entry[name] for name in ("token_id", "logprob", "rank")}
    body = {"generate_responses": [generated], "prompt_tokens": [5], "prompt_token_ids": [rendered["token_ids"]]}
    _, derendered, _ = split.post("/v1/completions/derender", body)
    mine, theirs = derendered["choices"][0], whole["choices"][0]
    assert mine["text"] == theirs["text"]
    assert mine["logprobs"]["token_logprobs"] == theirs["logprobs"]["token_logprobs"]
    assert mine["logprobs"]["tokens"] == theirs["logprobs"]["tokens"]


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/v1/chat/completions/derender", {}, "generate_response is missing"),
        ("/v1/chat/completions/derender", {"generate_response": {"choices": [{"index": 0}]}}, "token_ids"),
        ("/v1/chat/completions/derender", {"stream": True}, "generate_chunk is missing"),
        ("/v1/chat/completions/derender", {"stream": True, "generate_chunk": {"choices": [{"index": 0}] * 2}}, "at most one"),
        ("/v1/completions/derender", {"generate_responses": []}, "generate_responses is empty"),
        ("/v1/completions/derender", {"generate_responses": [{"choices": [{"index": 0, "token_ids": [999999]}]}]}, "999999"),
        ("/v1/completions/derender", {"generate_responses": [{"choices": [{"index": 0, "token_ids": [1] * 300}]}]}, "max_model_len"),
        ("/inference/v1/generate", {"token_ids": [1], "sampling_params": {"stop": "x", "detokenize": False}}, "stop strings"),
        ("/inference/v1/generate", {"token_ids": [1], "sampling_params": {"temperature": -1}}, "temperature"),
        ("/inference/v1/generate", {"token_ids": [1], "sampling_params": {"suffix": "x"}}, "suffix"),
        ("/inference/v1/abort_requests", {}, "request_ids"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_refused_by_name(split, path, body, says):
    status, answer, _ = split.post(path, body)
    assert status == 400
    assert says in answer["error"]["message"]


def test_a_state_that_was_changed_is_refused(split):
    chunk = {"choices": [{"index": 0, "token_ids": [1]}]}
    state = {"output_token_ids": [1, 2], "output_chunk_lens": [1]}
    body = {"stream": True, "generate_chunk": chunk, "stream_state": state}
    assert split.post("/v1/completions/derender", body)[1]["error"]["param"] == "stream_state.output_chunk_lens"


def test_a_request_is_aborted_by_its_name_and_its_neighbour_is_not(fake_model):
    """What it has generated is answered, with the reason."""
    with Served(fake_model, "--enable-scale-out", step_seconds=0.02) as slow:
        body = {"token_ids": [40, 41], "stream": True, "sampling_params": {"max_tokens": 200, "ignore_eos": True}}

        def begun(name):
            data = json.dumps({**body, "request_id": name}).encode()
            stream = urllib.request.urlopen(urllib.request.Request(f"{slow.url}/inference/v1/generate", data))
            return stream, stream.readline()

        (doomed, _), (neighbour, _) = begun("doomed"), begun("neighbour")
        assert slow.post("/inference/v1/abort_requests", {"request_ids": ["generate-tokens-doomed", "other"]})[0] == 200
        assert events(doomed.read().decode())[-1]["choices"][0]["finish_reason"] == "abort"
        assert events(neighbour.read().decode())[-1]["choices"][0]["finish_reason"] == "length"
        until(lambda: slow.metric("vllm:num_requests_running") == 0, 5)


def test_a_server_without_an_engine_renders_and_derenders(fake_model, split):
    """Generation is refused with the reason; what it renders is what a server with an engine does."""
    command = [
        sys.executable,
        "-m",
        "octavo",
        "launch",
        "render",
        str(fake_model),
        "--port",
        "0",
        "--max-model-len",
        "256",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = next(line for line in process.stdout if "is served at" in line).split(" at ")[1].split("/v1")[0]

            def post(path, body):
                request = urllib.request.Request(url + path, json.dumps(body).encode())
                try:
                    return json.loads(urllib.request.urlopen(request).read())
                except urllib.error.HTTPError as error:
                    return json.loads(error.read())

            rendered = post("/v1/chat/completions/render", BODY)
            assert rendered["token_ids"] == split.post("/v1/chat/completions/render", BODY)[1]["token_ids"]
            response = {"choices": [{"index": 0, "token_ids": rendered["token_ids"][:5]}]}
            assert post("/v1/completions/derender", {"generate_responses": [response]})["choices"][0]["text"] == "user:"
            assert "generates nothing" in post("/v1/completions", {"prompt": "x"})["error"]["message"]
        finally:
            process.terminate()
    assert process.returncode == 0


def test_launch_names_what_it_can_launch():
    done = subprocess.run([sys.executable, "-m", "octavo", "launch"], capture_output=True, text=True, check=False)
    assert (done.returncode, "octavo launch render MODEL" in done.stderr) == (2, True)
