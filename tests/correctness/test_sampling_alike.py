"""Both executors draw the same tokens: the random numbers and the order of processing are one definition."""

from __future__ import annotations

import pytest
from octavo_testing.engine_runs import engine_config, generate, request, running_core
from octavo_testing.tiny_models import make

from octavo_engine.config import ModelConfig
from octavo_engine.messages import Vocabulary
from octavo_engine.sampling_params import ThinkingBudget

PROMPT = [3, 50, 7, 120, 9, 9, 14]
SAMPLED = {
    "plain": {},
    "hot": {"temperature": 3.0, "seed": 2**63 + 12345},
    "cold": {"temperature": 0.2},
    "every logprob": {"logprobs": -1},
    "named logprobs": {"logprobs": 3, "logprob_token_ids": (90, 5, 17)},
    "processed logprobs": {"logprobs_mode": "processed_logprobs", "top_k": 7, "temperature": 2.0, "logprobs": 9},
    "processed logits": {"logprobs_mode": "processed_logits", "top_p": 0.6, "logit_bias": {5: 8.0}, "temperature": 2.0},
    "processed, penalized": {"logprobs_mode": "processed_logprobs", "frequency_penalty": 0.7, "min_p": 0.02},
    "processed, greedy": {"logprobs_mode": "processed_logits", "temperature": 0.0, "allowed_token_ids": (4, 8, 15)},
    "processed, named": {"logprobs_mode": "processed_logprobs", "logprob_token_ids": (90, 5, 17), "temperature": 2.0},
    "raw logits": {"logprobs_mode": "raw_logits", "logit_bias": {5: 8.0}, "temperature": 2.0},
    "top k": {"top_k": 7, "temperature": 2.0},
    "top p": {"top_p": 0.6, "temperature": 2.0},
    "min p": {"min_p": 0.1, "temperature": 2.0},
    "all filters": {"min_p": 0.02, "top_k": 20, "top_p": 0.8, "temperature": 2.5},
    "penalties": {"repetition_penalty": 1.3, "frequency_penalty": 0.7, "presence_penalty": 0.4},
    "negative penalties": {"repetition_penalty": 0.8, "frequency_penalty": -0.3, "presence_penalty": -0.5},
    "greedy with penalties": {"temperature": 0.0, "repetition_penalty": 1.5, "frequency_penalty": 1.0},
    "biases": {"logit_bias": {5: 8.0, 6: -100.0, 17: 7.5}, "temperature": 1.5},
    "allowed": {"allowed_token_ids": (4, 8, 15, 16, 23, 42), "temperature": 2.0},
    "bad words": {"allowed_token_ids": (4, 8, 15), "bad_words": ((4,), (8, 15)), "temperature": 2.0},
    "min tokens": {"allowed_token_ids": (2, 9, 11), "min_tokens": 6, "eos_token_ids": (2,), "ignore_eos": False},
    "stop token": {"allowed_token_ids": (2, 9, 11), "stop_token_ids": (9,), "min_tokens": 3, "ignore_eos": False},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results by executor, by request: all of them in one batch of each."""
    folder = tmp_path_factory.mktemp("alike")
    make("qwen 3", folder)
    outputs = {}
    for executor in ("native", "torch"):
        model = ModelConfig(model=str(folder), served_model_names=("tiny",), dtype="float32")
        requests = [
            request(name, PROMPT, 40, **({"temperature": 1.0, "seed": 7, "logprobs": 4} | fields))
            for name, fields in SAMPLED.items()
        ]
        with running_core(engine_config(model, executor)) as core:
            outputs[executor] = generate(core, requests)
    return outputs


@pytest.mark.parametrize("name", SAMPLED)
def test_executors_draw_the_same_tokens(results, name):
    native, torch = results["native"][name], results["torch"][name]
    assert native.error is torch.error is None
    assert native.tokens == torch.tokens
    assert native.finish_reason == torch.finish_reason


@pytest.mark.parametrize("name", SAMPLED)
def test_logprobs_are_the_same_in_both(results, name):
    """Ranks and best tokens are the same too, whatever was biased or banned, and in every mode."""
    native, torch = results["native"][name].logprobs, results["torch"][name].logprobs
    assert len(native) == len(torch) == len(results["torch"][name].tokens)
    for n, t in zip(native, torch, strict=True):
        assert (n.token_id, n.rank) == (t.token_id, t.rank)
        assert n.logprob == pytest.approx(t.logprob, abs=1e-3)
        assert [token for token, _ in n.top] == [token for token, _ in t.top]


def test_requests_that_can_draw_nothing_fail_alone(tmp_path, executor_name):
    """All allowed tokens are banned too: that request ends in an error, its neighbour goes on."""
    make("llama", tmp_path)
    model = ModelConfig(model=str(tmp_path), served_model_names=("tiny",), dtype="float32")
    with running_core(engine_config(model, executor_name)) as core:
        done = generate(
            core,
            [request("hopeless", PROMPT, 9, allowed_token_ids=(4,), bad_words=((4,),)), request("fine", PROMPT, 9)],
        )
    assert done["hopeless"].finish_reason == "error"
    assert done["hopeless"].error
    assert len(done["fine"].tokens) == 9
    assert done["fine"].finish_reason == "length"


@pytest.mark.parametrize("executor", ["native", "torch"])
def test_reasoning_ends_with_its_budget(tmp_path, executor):
    """On each executor, beside a request without one: after so many tokens its end is drawn, then what the model likes."""
    make("qwen 3", tmp_path)
    model = ModelConfig(model=str(tmp_path), served_model_names=("tiny",), dtype="float32")
    forced = (33, 34, 35)
    texts = [f"[{i}]".encode() for i in range(128)]
    close = b"".join(texts[i] for i in forced)
    budget = ThinkingBudget(max_tokens=6, open=(b"[-]",), close=(close,), forced=forced, begun=True)
    with running_core(engine_config(model, executor)) as core:
        core.set_vocabulary(Vocabulary(texts, []))
        requests = [request("free", PROMPT, 20, temperature=1.0, seed=7)]
        requests.append(request("budget", PROMPT, 20, temperature=1.0, seed=7, thinking=budget))
        done = generate(core, requests)
    assert done["budget"].error is None
    free, held = done["free"].tokens, done["budget"].tokens
    assert len(free) == len(held) == 20
    assert held[:9] == [*free[:6], *forced]
