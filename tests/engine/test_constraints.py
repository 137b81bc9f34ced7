"""Answers that a grammar constrains: each matches it, and no neighbour's token changes or waits for long."""

from __future__ import annotations

import json
import re
import time

import pytest
from octavo_testing.fake_executor import FakeExecutor, core_over, lonely_run

from octavo_engine.engine.constraints import Constraints
from octavo_engine.messages import EngineOutput, EngineRequest, Vocabulary
from octavo_engine.sampling_params import SamplingParams

LETTERS = 'abcdefghijklmnopqrstuvwxyz0123456789{}[]":, .-'
VOCABULARY = Vocabulary([*(c.encode() for c in LETTERS), b"ab", b"</s>"], [len(LETTERS) + 1])
END = len(LETTERS) + 1
SIZE = len(VOCABULARY.tokens)
SECONDS = 60.0  # until an answer must have come


def lark(text: str) -> str:
    return json.dumps({"grammars": [{"lark_grammar": text}]})


def constrained(
    request_id: str, grammar: str, seed: int = 0, prompt: tuple[int, ...] = (1, 2, 3), **sampling
) -> EngineRequest:
    params = SamplingParams(max_tokens=30, seed=seed, grammar=grammar, eos_token_ids=(END,), **sampling)
    return EngineRequest(request_id=request_id, prompt_token_ids=list(prompt), sampling=params, arrival_time=0.0)


def free(request_id: str, seed: int, prompt: tuple[int, ...]) -> EngineRequest:
    params = SamplingParams(max_tokens=20, seed=seed, eos_token_ids=(END,))
    return EngineRequest(request_id=request_id, prompt_token_ids=list(prompt), sampling=params, arrival_time=0.0)


def core(executor: FakeExecutor, **settings):
    engine = core_over(executor, **settings)
    engine.set_vocabulary(VOCABULARY)
    return engine


def run(engine, requests: list[EngineRequest]) -> dict[str, EngineOutput]:
    """The last output of each request, with all of its tokens."""
    for request in requests:
        engine.add(request)
    tokens: dict[str, list[int]] = {request.request_id: [] for request in requests}
    ends: dict[str, EngineOutput] = {}
    end = time.monotonic() + SECONDS
    while len(ends) < len(requests):
        assert time.monotonic() < end, "an answer does not end"
        for output in engine.step() if engine.has_work else ():
            tokens[output.request_id] += output.new_token_ids
            if output.finish_reason is not None:
                ends[output.request_id] = EngineOutput(
                    request_id=output.request_id,
                    new_token_ids=tokens[output.request_id],
                    finish_reason=output.finish_reason,
                    error=output.error,
                    refused=output.refused,
                )
    engine.check()
    return ends


def text(output: EngineOutput) -> str:
    return b"".join(VOCABULARY.tokens[token] for token in output.new_token_ids if token != END).decode()


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("spare_bytes", [1000, 4])
def test_constrained_and_free_requests_share_steps(asynchronous, spare_bytes):
    """Each constrained answer matches its grammar, each free one is what it would be alone, preempted or not."""
    engine = core(FakeExecutor(vocab_size=SIZE, asynchronous=asynchronous), spare_bytes=spare_bytes, max_num_seqs=8)
    patterns = {"digits": "[0-9]{2,5}", "words": "(ab|cd){1,4}x", "one": "z"}
    requests = [
        constrained(f"{name} {seed}", lark(f"start: /{p}/"), seed) for name, p in patterns.items() for seed in range(4)
    ]
    requests[3:3] = [free(f"free {seed}", seed, (4, 5, seed)) for seed in range(6)]
    ends = run(engine, requests)
    for name, pattern in patterns.items():
        for seed in range(4):
            end = ends[f"{name} {seed}"]
            assert end.finish_reason == "stop", end
            assert re.fullmatch(pattern, text(end)), text(end)
    for seed in range(6):
        sampling = SamplingParams(max_tokens=20, seed=seed, eos_token_ids=(END,))
        expected, reason = lonely_run([4, 5, seed], sampling, max_model_len=64, vocab_size=SIZE)
        assert (ends[f"free {seed}"].new_token_ids, ends[f"free {seed}"].finish_reason) == (expected, reason)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("failure", ["at once", "submit", "sample", "collect", "error"])
def test_a_failing_neighbour_leaves_a_constrained_answer_whole(failure, asynchronous):
    """The offender alone ends with an error; the grammar goes on from the tokens that were drawn."""
    executor = FakeExecutor(vocab_size=SIZE, asynchronous=asynchronous, fails={"bad": failure})
    grammar = lark("start: /[0-9]{4,8}x/")
    good = [constrained(f"good {seed}", grammar, seed) for seed in range(3)]
    ends = run(core(executor), [good[0], constrained("bad", grammar), *good[1:], free("free", 1, (7, 7))])
    assert ends["bad"].finish_reason == "error"
    for request in good:
        assert re.fullmatch("[0-9]{4,8}x", text(ends[request.request_id]))


def test_a_grammar_that_cannot_be_used_is_its_request_s_error():
    """The client gets the reason, and that it is its request's fault."""
    ends = run(
        core(FakeExecutor(vocab_size=SIZE)),
        [
            constrained("bad", lark("start: /[/")),
            constrained("schema", json.dumps({"grammars": [{"json_schema": {"if": {"type": "string"}}}]})),
            constrained("good", lark("start: /a/")),
        ],
    )
    assert ends["bad"].refused
    assert ends["bad"].error.startswith("the grammar of the answer can't be used: ")
    assert "if can't be held to: leave it out" in ends["schema"].error
    assert text(ends["good"]) == "a"


def test_a_stop_token_of_the_request_ends_an_answer_where_the_grammar_may_end():
    """The answer ends nowhere else: every answer that ends by itself is whole."""
    stop = VOCABULARY.tokens.index(b".")
    requests = []
    for seed in range(10):
        request = constrained(f"{seed}", lark("start: /([0-9][a-z])+/"), seed, stop_token_ids=(stop,))
        requests.append(request)
    for end in run(core(FakeExecutor(vocab_size=SIZE)), requests).values():
        if end.finish_reason == "stop":
            assert re.fullmatch("([0-9][a-z])+[.]?", text(end)), text(end)


def test_an_answer_without_end_is_cut_at_its_length():
    """Its reason is that of any other answer."""
    (end,) = run(core(FakeExecutor(vocab_size=SIZE)), [constrained("a", lark("start: /[0-9]{100}/"))]).values()
    assert end.finish_reason == "length"
    assert re.fullmatch("[0-9]{30}", text(end))


def test_bans_that_leave_the_grammar_no_token_end_the_request():
    """With the sentence for requests that ban every token."""
    only = SamplingParams(max_tokens=5, grammar=lark('start: "a"'), eos_token_ids=(END,), min_tokens=3)
    request = EngineRequest(request_id="a", prompt_token_ids=[1], sampling=only, arrival_time=0.0)
    executor = FakeExecutor(vocab_size=SIZE)
    engine = core(executor)
    executor.draw = lambda seen, sampling, num, mask: None if num else 0
    (end,) = run(engine, [request]).values()
    assert end.refused
    assert "no token can be drawn" in end.error


def test_a_request_may_go_while_its_grammar_is_compiled():
    """Nothing of it is left but its last output."""
    engine = core(FakeExecutor(vocab_size=SIZE))
    engine.add(constrained("gone", lark("start: /a/")))
    assert engine.stats().num_waiting == 1
    engine.abort(["gone"])
    assert engine.stats().num_waiting == 0
    assert not engine.is_compiling
    assert [(output.request_id, output.finish_reason) for output in engine.step()] == [("gone", "abort")]
    assert list(run(engine, [constrained("next", lark("start: /a/"))])) == ["next"]


HOSTILE = {
    "a list of a thousand million": {"type": "array", "items": {"type": "integer"}, "minItems": 1_000_000_000},
    "a long text": {"type": "string", "minLength": 5_000_000},
    "a thousand properties": {"properties": {f"p{i}": {"type": "string"} for i in range(1000)}, "type": "object"},
    "a long enumeration": {"enum": [f"choice {i}" for i in range(1000)]},
    "references to itself": {
        "anyOf": [{"type": "array", "items": {"$ref": "#"}}, {"additionalProperties": {"$ref": "#"}}]
    },
    "pattern": {"type": "string", "pattern": "^(((a{1,1000}){1,1000}){1,1000})$"},
}


@pytest.mark.parametrize("schema", HOSTILE.values(), ids=HOSTILE)
def test_a_costly_schema_leaves_its_neighbour_alone(schema):
    """The schema is compiled beside the steps and answered or refused; a stream beside it ends as if alone."""
    engine = core(FakeExecutor(vocab_size=SIZE))
    costly = constrained("costly", json.dumps({"grammars": [{"json_schema": schema}]}))
    ends = run(engine, [costly, free("free", 3, (4, 5, 3))])
    assert ends["costly"].finish_reason in {"stop", "length"} or ends["costly"].error
    expected, _ = lonely_run(
        [4, 5, 3], SamplingParams(max_tokens=20, seed=3, eos_token_ids=(END,)), max_model_len=64, vocab_size=SIZE
    )
    assert ends["free"].new_token_ids == expected


def test_compiled_grammars_are_kept_within_a_bound(monkeypatch):
    """The one that was used last the longest ago goes first."""
    monkeypatch.setattr("octavo_engine.engine.constraints.CACHED_GRAMMARS", 2)
    constraints = Constraints(SIZE)
    constraints.set_vocabulary(VOCABULARY)
    for i, letter in enumerate("abcab"):
        constraints.compile(constrained(str(i), lark(f'start: "{letter}"')))
        end = time.monotonic() + SECONDS
        while not constraints.has_compiled:
            assert time.monotonic() < end
            time.sleep(0.001)
        assert [problem for _, problem in constraints.take_compiled()] == [None]
    assert [json.loads(text)["grammars"][0]["lark_grammar"][-2] for text in constraints._compiled] == ["a", "b"]
    constraints.close()
