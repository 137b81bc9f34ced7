"""Batches of chats, generative scores, invocations, and requests that wait while the server is paused."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path

import pytest
from octavo_testing.served import Served, until

from octavo_engine.server import app
from octavo_engine.server.answer.unserved_paths import UNSERVED_PATHS
from octavo_engine.server.intake.decisions import DecisionBody, read_questions
from octavo_engine.server.routes import description

# Those of vLLM 0.32's routers.
VLLM_PATHS = [
    "/health",
    "/version",
    "/load",
    "/metrics",
    "/v1/models",
    "/kv_event_sources",
    "/ping",
    "/docs",
    "/openapi.json",
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/chat/completions/batch",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/tokenize",
    "/detokenize",
    "/invocations",
    "/generative_scoring",
    "/v1/systemone",
    "/scale_elastic_ep",
    "/is_scaling_elastic_ep",
    "/v1/embeddings",
    "/v2/embed",
    "/pooling",
    "/classify",
    "/score",
    "/v1/score",
    "/rerank",
    "/v1/rerank",
    "/v2/rerank",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/realtime",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/start_profile",
    "/stop_profile",
    "/tokenizer_info",
    "/cohere/v2/chat",
    "/v1/completions/render",
    "/v1/chat/completions/render",
    "/v1/completions/derender",
    "/v1/chat/completions/derender",
    "/inference/v1/generate",
    "/inference/v1/abort_requests",
    "/sleep",
    "/wake_up",
    "/is_sleeping",
    "/release_kv_cache_memory",
    "/reset_prefix_cache",
    "/reset_mm_cache",
    "/reset_encoder_cache",
    "/collective_rpc",
    "/server_info",
    "/pause",
    "/resume",
    "/is_paused",
    "/abort_requests",
    "/update_weights",
]
CHATS = [[{"role": "user", "content": text}] for text in ("one", "two", "three")]


def test_each_conversation_of_a_batch_is_a_choice(served):
    """The same answers as one by one."""
    body = {"max_tokens": 6, "seed": 5}
    _, batch, _ = served.post("/v1/chat/completions/batch", {**body, "messages": CHATS})
    single = [served.post("/v1/chat/completions", {**body, "messages": chat})[1] for chat in CHATS]
    assert [choice["index"] for choice in batch["choices"]] == [0, 1, 2]
    texts = [choice["message"]["content"] for choice in batch["choices"]]
    assert texts == [answer["choices"][0]["message"]["content"] for answer in single]
    assert batch["usage"]["total_tokens"] == sum(answer["usage"]["total_tokens"] for answer in single)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream": True}, "stream"),
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"messages": []}, "messages"),
        ({"messages": CHATS[0]}, "messages[0]"),
    ],
)
def test_a_batch_is_answered_whole_and_without_tools(served, fields, param):
    status, answer, _ = served.post("/v1/chat/completions/batch", {"messages": CHATS, **fields})
    assert (status, answer["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    "body",
    [
        {"query": "x", "items": ["a"]},
        {"query": "x", "items": [], "label_token_ids": [40]},
        {"query": "x", "items": ["a"], "label_token_ids": [999999]},
        {"query": "x", "items": ["a"], "label_token_ids": list(range(200))},
    ],
)
def test_a_wrong_scoring_is_refused(served, body):
    assert served.post("/generative_scoring", body)[0] == 400


def test_an_invocation_is_answered_as_its_fields_say(served):
    """The endpoint whose request it is answers; a body that is none of them is refused."""
    assert served.post("/invocations", {"prompt": "x", "max_tokens": 1})[1]["object"] == "text_completion"
    assert served.post("/invocations", {"messages": CHATS[0], "max_tokens": 1})[1]["object"] == "chat.completion"
    assert "generates" in served.post("/invocations", {"input": "x"})[1]["error"]["message"]
    assert served.post("/invocations", {"words": "x"})[0] == 400
    assert served.post("/invocations", [1])[0] == 400
    assert served.get("/load")[1] == {"server_load": 0}


@pytest.mark.parametrize("path", UNSERVED_PATHS)
def test_a_path_of_vllms_that_is_not_served_says_what_to_do_instead(served, path):
    """Where a flag serves it, the flag is named; another path has no such words."""
    if path in {"/docs", "/redoc", "/openapi.json"}:
        return  # served here; `test_api_description` leaves them out
    status, answer, _ = served.post(path, {})
    assert (status, answer["error"]["message"]) == (404, f"this server has no POST {path}: {UNSERVED_PATHS[path]}")
    assert served.get("/nothing")[1]["error"]["message"] == "this server has no GET /nothing"


def test_every_path_of_vllms_is_served_or_refused_by_name():
    """The reference lists each, too. The list is that of vLLM 0.32's routers."""
    served = {path for _, path, _ in (*app.ROUTES, *app.ADAPTER_ROUTES, *app.DEVELOPMENT_ROUTES, *description.ROUTES)}
    page = (Path(__file__).parents[2] / "docs/reference/http.md").read_text()
    for path in VLLM_PATHS:
        assert path in served | UNSERVED_PATHS.keys(), path
        assert path in page, path


def test_the_configuration_is_shown_without_keys(fake_model):
    with Served(fake_model, "--enable-development-endpoints", "--api-key", "secret") as server:
        headers = {"Authorization": "Bearer secret"}
        _, info, _ = server.get("/server_info?config_format=json", headers=headers)
        assert info["vllm_config"]["model"]["model"] == str(fake_model)
        _, text, _ = server.get("/server_info", headers=headers)
        assert "secret" not in f"{info} {text}"
        assert "served_model_names" in text["vllm_config"]
        assert server.get("/server_info?config_format=xml", headers=headers)[0] == 400


def test_no_source_of_kv_events_is_named(served):
    """A router that looks for them finds none, rather than an error."""
    assert served.get("/kv_event_sources")[:2] == (200, {})


@pytest.fixture
def slow(fake_model):
    with Served(fake_model, "--enable-development-endpoints", step_seconds=0.05) as server:
        yield server


class Running:
    """A completion in a thread of its own."""

    def __init__(self, served, max_tokens):
        body = {"prompt": "abc", "max_tokens": max_tokens, "ignore_eos": True}
        self.answer = None
        self._thread = threading.Thread(target=lambda: self._run(served, body))
        self._thread.start()

    def _run(self, served, body):
        self.answer = served.post("/v1/completions", body)[1]

    def reason(self):
        self._thread.join(20)
        return self.answer["choices"][0]["finish_reason"]


@pytest.mark.parametrize(("mode", "reason"), [("abort", "abort"), ("wait", "length"), ("keep", "length")])
def test_a_pause_holds_new_requests_and_does_with_running_ones_as_asked(slow, mode, reason):
    """Aborted ones are answered with what they have; those that are kept go on where they were."""
    running = Running(slow, 40)
    slow.wait_for_metric("vllm:num_requests_running", 1)
    assert slow.post(f"/pause?mode={mode}", None)[0] == 200
    assert slow.get("/is_paused")[1] == {"is_paused": True}
    held = Running(slow, 1)
    generated = slow.metric("vllm:generation_tokens_total")
    assert not until_or_not(lambda: held.answer is not None, 0.5)
    assert slow.metric("vllm:generation_tokens_total") == generated
    assert slow.post("/resume", None)[0] == 200
    assert (running.reason(), held.reason()) == (reason, "length")
    assert slow.get("/is_paused")[1] == {"is_paused": False}


def until_or_not(condition, seconds):
    try:
        until(condition, seconds)
    except AssertionError:
        return False
    return True


def test_a_request_that_ends_while_it_is_held_is_never_run(slow):
    """Its client has gone away."""
    slow.post("/pause", None)
    with pytest.raises(TimeoutError):
        slow.request("POST", "/v1/completions", {"prompt": "abc", "max_tokens": 4}, timeout=0.5)
    slow.post("/resume", None)
    assert slow.post("/v1/completions", {"prompt": "abc", "max_tokens": 1})[0] == 200
    assert slow.metric("vllm:generation_tokens_total") == 1
    status, answer, _ = slow.post("/pause?mode=never", None)
    assert (status, answer["error"]["param"]) == (400, "query.mode")
    assert json.loads(json.dumps(slow.get("/is_paused")[1])) == {"is_paused": False}


CHOICE = {"type": "choice", "criteria": {"a": "first", "b": None}}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"questions": {}}, "questions has 0"),
        ({"questions": {str(i): CHOICE for i in range(65)}}, "at most 64"),
        ({"questions": {"q": {**CHOICE, "depends_on": []}}}, "unknown field(s) depends_on"),
        ({"questions": {"q": {"type": "essay"}}}, "must be one of choice, noul, score"),
        ({"questions": {"q": {"type": "choice"}}}, "must map each option"),
        ({"questions": {"q": {"type": "choice", "criteria": {str(i): None for i in range(27)}}}}, "at most 26 options"),
        ({"questions": {"q": {"type": "noul", "criteria": {"maybe": "x"}}}}, "true and false"),
        ({"questions": {"q": {"type": "score", "criteria": ["one"]}}}, "ordered list of levels"),
        ({"questions": {"q": CHOICE}, "chat_template_kwargs": {"enable_thinking": True}}, "thinking must be off"),
        ({"questions": {"q": {"type": "noul"}}}, "'yes' is not one token"),
    ],
)
def test_a_wrong_decision_is_refused_by_its_question(served, fields, says):
    status, answer, _ = served.post("/v1/systemone", {"state": "x", **fields})
    assert (status, says in answer["error"]["message"]) == (400, True), answer


def test_a_decision_says_what_it_is_about():
    """The state and the options by their labels; the answer has each option's share, and the confidence that of all tokens."""
    body = DecisionBody(state={"team": "billing"}, questions={"q": {**CHOICE, "instructions": "Which?"}})
    (question,) = read_questions(body)
    assert question.prompt(body).splitlines() == [
        'State: {"team": "billing"}',
        "Question: Which?",
        "A: a - first",
        "B: b",
        "Answer with the letter of one option only.",
    ]
    answer, mass = question.answer([math.log(0.1), math.log(0.3)])
    assert mass == pytest.approx(0.4)
    assert answer == {
        "type": "choice",
        "choice": "b",
        "probabilities": pytest.approx({"a": 0.25, "b": 0.75}),
        "confidence": pytest.approx(0.3),
    }
    (scale,) = read_questions(DecisionBody(state="", questions={"q": {"type": "score", "criteria": ["low", "high"]}}))
    assert scale.answer([math.log(0.2)] * 2)[0]["score"] == pytest.approx(0.5)
    (sides,) = read_questions(DecisionBody(state="", questions={"q": {"type": "noul", "criteria": {"true": "good"}}}))
    assert sides.prompt(body).splitlines()[1:3] == ["yes: good", "no"]
