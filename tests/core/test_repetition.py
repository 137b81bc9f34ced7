"""An answer that repeats itself ends with the reason "repetition", at the token that completes the last repetition."""

from __future__ import annotations

import random

import pytest
from octavo_testing.fake_executor import FakeExecutor, core_over

from octavo_engine.core.repetition import RepetitionWatch
from octavo_engine.messages import EngineRequest
from octavo_engine.sampling_params import RepetitionDetection, SamplingParams


def detection(most, least, count):
    return RepetitionDetection(max_pattern_size=most, min_pattern_size=least, min_count=count)


def plain(output, asked):
    """True if the last tokens are one pattern, `min_count` times in a row."""
    return any(
        size * asked.min_count <= len(output) and output[-size * asked.min_count :] == output[-size:] * asked.min_count
        for size in range(asked.min_pattern_size, asked.max_pattern_size + 1)
    )


@pytest.mark.parametrize("asked", [detection(1, 1, 2), detection(4, 1, 3), detection(5, 3, 2), detection(7, 7, 4)])
def test_it_finds_what_a_plain_search_finds(asked):
    """After each token of random and of repeating answers; the prompt does not count."""
    rng = random.Random(5)
    found = 0
    for _ in range(60):
        watch = RepetitionWatch(asked)
        pattern = [rng.randrange(3) for _ in range(rng.randrange(1, 8))]
        tokens = pattern * 3
        prompt = len(tokens)
        for at in range(60):
            tokens.append(pattern[at % len(pattern)] if rng.random() < 0.97 else rng.randrange(3))
            output = tokens[prompt:]
            repeats = watch.note(tokens, len(output))
            assert repeats == plain(output, asked)
            found += repeats
    assert found > 0


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("min_tokens", [0, 10])
def test_the_answer_ends_there(asynchronous, min_tokens):
    """The answer has `min_tokens` before, and another request of the batch goes on."""
    executor = FakeExecutor(asynchronous=asynchronous, vocab_size=50)
    executor.draw = lambda seen, sampling, count, mask=None: (7, 8, 9)[count % 3]
    core = core_over(executor)
    for name, asked in (("a", detection(5, 2, 2)), ("b", None)):
        sampling = SamplingParams(max_tokens=20, repetition_detection=asked, min_tokens=min_tokens)
        core.add(EngineRequest(request_id=name, prompt_token_ids=[9, 8, 7], sampling=sampling, arrival_time=0.0))
    tokens, reasons = {"a": [], "b": []}, {}
    while core.has_work:
        for output in core.step():
            tokens[output.request_id] += output.new_token_ids
            reasons[output.request_id] = output.finish_reason
    assert (len(tokens["a"]), reasons["a"]) == (max(6, min_tokens), "repetition")
    assert (len(tokens["b"]), reasons["b"]) == (20, "length")
