"""Reasoning ends where its budget is used up: after so many tokens its end is forced, and the answer goes on."""

from __future__ import annotations

import json

import pytest
from octavo_testing.fake_executor import FakeExecutor, core_over

from octavo_engine.core.thinking import Thinking
from octavo_engine.messages import EngineRequest, Vocabulary
from octavo_engine.sampling_params import SamplingParams, ThinkingBudget

TOKENS = [*(c.encode() for c in "abcdefgh<>/t"), b"ab", b"<t>", b"</t>", b"x</", b"t>y", b"</s>"]
ID = {text.decode(): i for i, text in enumerate(TOKENS)}
FORCED = [ID[c] for c in "</t>"]
VOCABULARY = Vocabulary(TOKENS, [ID["</s>"]])


def budget(most, *, begun=True, forced=tuple(FORCED)):
    return ThinkingBudget(max_tokens=most, open=(b"<t>",), close=(b"</t>",), forced=forced, begun=begun)


def followed(thinking, *texts):
    """The token that is forced after each of these; None if none is."""
    found = []
    for text in texts:
        thinking.note(ID[text])
        found.append(thinking.forced)
    return found


def test_after_so_many_tokens_the_end_is_forced_token_by_token():
    """Behind it nothing is forced: content may be as long as it likes."""
    thinking = Thinking(budget(3), TOKENS)
    assert thinking.forced is None
    assert followed(thinking, "a", "b", "ab") == [None, None, FORCED[0]]
    assert followed(thinking, *"</t>") == [*FORCED[1:], None]
    assert followed(thinking, *"abababab") == [None] * 8
    assert not thinking.may_force(2)


def test_a_budget_of_none_ends_reasoning_at_once():
    assert Thinking(budget(0), TOKENS).forced == FORCED[0]
    opened = Thinking(budget(0, begun=False), TOKENS)
    assert (opened.forced, opened.may_force(0), opened.may_force(1)) == (None, False, True)
    assert followed(opened, "a", "<t>") == [None, FORCED[0]]


@pytest.mark.parametrize("end", [["</t>"], ["x</", "t>y"], ["<", "/", "t", ">"]])
def test_reasoning_that_ends_by_itself_is_left_alone(end):
    """However its end is cut into tokens; one that has begun may be completed."""
    thinking = Thinking(budget(3), TOKENS)
    assert followed(thinking, "a", *end, *"abcabc")[-6:] == [None] * 6
    late = Thinking(budget(2), TOKENS)
    assert followed(late, "a", "<", "/", "t", ">", "a", "a") == [None] * 7


def test_what_only_looked_like_its_end_is_forced_after_all():
    thinking = Thinking(budget(2), TOKENS)
    assert followed(thinking, "a", "<", "/", "a") == [None, None, None, FORCED[0]]


def test_reasoning_that_begins_again_is_not_limited():
    """Once it has ended, no step waits for the tokens before it."""
    thinking = Thinking(budget(3), TOKENS)
    assert followed(thinking, "a", "b", "</t>", "a", "<t>", *"abcabc") == [None] * 11
    assert not thinking.may_force(2)


def test_a_mask_is_asked_for_only_where_the_budget_may_end():
    """Far from it, steps go on before the last one's tokens are known."""
    thinking = Thinking(budget(5), TOKENS)
    assert [thinking.may_force(pending) for pending in (0, 1, 4, 5)] == [False, False, False, True]
    followed(thinking, *"abcd")
    assert (thinking.may_force(0), thinking.may_force(1)) == (False, True)


def request(name, most, seed, *, begun=True, max_tokens=24, **sampling):
    params = SamplingParams(
        max_tokens=max_tokens,
        seed=seed,
        eos_token_ids=(ID["</s>"],),
        thinking=None if most is None else budget(most, begun=begun),
        **sampling,
    )
    return EngineRequest(request_id=name, prompt_token_ids=[1, 2, seed], sampling=params, arrival_time=0.0)


def answers(executor, requests, **settings):
    core = core_over(executor, **settings)
    core.set_vocabulary(VOCABULARY)
    for each in requests:
        core.add(each)
    tokens = {each.request_id: [] for each in requests}
    while core.has_work or core.is_compiling:
        for output in core.step() if core.has_work else ():
            assert output.error is None, output
            tokens[output.request_id] += output.new_token_ids
        core.check()
    return tokens


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("spare_bytes", [1000, 4])
def test_answers_of_a_batch_keep_to_their_budgets(asynchronous, spare_bytes):
    """Preempted or not; up to the forced end each is what it would be without a budget, and neighbours are too."""
    budgets = {f"{most} {seed}": (most, seed) for most in (None, 0, 1, 4) for seed in range(4)}
    executor = FakeExecutor(vocab_size=len(TOKENS), asynchronous=asynchronous)
    requests = [request(name, *of) for name, of in budgets.items()]
    found = answers(executor, requests, spare_bytes=spare_bytes, max_num_seqs=8)
    for name, (most, seed) in budgets.items():
        free = answers(FakeExecutor(vocab_size=len(TOKENS)), [request("free", None, seed)])["free"]
        text = b"".join(TOKENS[token] for token in free[:most])
        ended = b"</t>" in text or ID["</s>"] in free[:most] or text.endswith(b"<")
        if most is None or ended:
            assert found[name][: len(free[:most])] == free[:most]
        else:
            assert found[name][: most + 4] == free[:most] + FORCED


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_grammar_and_a_budget_hold_together(asynchronous):
    """Reasoning of any text, its end, and then content that matches; where the grammar has ended it first, nothing is forced."""
    executor = FakeExecutor(vocab_size=len(TOKENS), asynchronous=asynchronous)
    grammar = json.dumps({"grammars": [{"lark_grammar": 'start: /[a-h]*/ "</t>" /h{3}/'}]})
    short = json.dumps({"grammars": [{"lark_grammar": "start: /[a-h]{2}/"}]})
    requests = [request(f"r{seed}", 4, seed, grammar=grammar) for seed in range(4)]
    requests += [request(f"s{seed}", 1, seed, grammar=short) for seed in range(2)]
    for name, tokens in answers(executor, requests).items():
        text = b"".join(TOKENS[token] for token in tokens).decode().removesuffix("</s>")
        if name[0] == "s":
            assert len(text) == 2
        else:
            reasoning, _, content = text.partition("</t>")
            assert content == "hhh"
            assert len(reasoning) <= 8  # four tokens
