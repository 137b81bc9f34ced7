"""The native sampler: its draws are the twin's, and their frequencies those that temperature and cuts give."""

from __future__ import annotations

import numpy as np
import pytest
from instruction_sets import OPERATIONS, available
from sampling_twin import drawn, gumbel, probabilities, processed

from octavo_engine.executors.native import _native
from octavo_engine.executors.native.executor import native_sampling
from octavo_engine.sampling_params import SamplingParams

ISAS = [_native.ISAS[name] for name in OPERATIONS if available(name)]
PROMPT, OUTPUT = [3, 5, 5, 8, 50], [5, 9, 9, 9, 20]
CASES = {
    "greedy": {"temperature": 0.0},
    "plain": {},
    "hot": {"temperature": 1.7},
    "cold": {"temperature": 0.2},
    "top_k": {"top_k": 7},
    "top_k of one": {"top_k": 1},
    "top_k beyond the vocabulary": {"top_k": 100_000},
    "top_p": {"top_p": 0.9},
    "top_p of almost all": {"top_p": 0.99999},
    "top_p of almost nothing": {"top_p": 1e-6},
    "min_p": {"min_p": 0.05},
    "all cuts": {"min_p": 0.001, "top_k": 60, "top_p": 0.8, "temperature": 1.3},
    "penalties": {"repetition_penalty": 1.4, "frequency_penalty": 0.7, "presence_penalty": -0.4},
    "penalties that overflow": {"repetition_penalty": 1e-45, "frequency_penalty": -2.0, "temperature": 1e-5},
    "penalties that bury": {"repetition_penalty": 1e30, "presence_penalty": 2.0, "top_p": 0.9},
    "almost greedy": {"temperature": 1e-5, "top_p": 0.9, "min_p": 0.5},
    "greedy by its temperature": {"temperature": 1e-45, "top_k": 5},
    "biases": {"logit_bias": {7: 9.0, 3: -100.0}, "temperature": 0.0},
    "allowed": {"allowed_token_ids": (4, 9, 44), "logit_bias": {9: 1.0}},
    "minimum of tokens": {"min_tokens": 6, "eos_token_ids": (1,), "stop_token_ids": (2, 9), "temperature": 0.0},
    "minimum reached": {"min_tokens": 5, "eos_token_ids": (1,), "temperature": 0.0},
    "bad words": {"bad_words": ((11,), (9, 12), (5, 13), (9, 20, 14)), "temperature": 0.0},
}


def draw(isa, logits, params, prompt=PROMPT, output=OUTPUT, mask=None):
    return _native.draw(isa, logits.astype(np.float32), prompt, output, native_sampling(_native, params), mask)


def params_of(**fields) -> SamplingParams:
    return SamplingParams(max_tokens=10, **fields)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("vocab", [67, 1000])
@pytest.mark.parametrize("name", CASES)
def test_draws_are_the_twins(name, vocab, isa):
    """For every kind of processing and every instruction set, over many seeds."""
    rng = np.random.default_rng(4)
    for seed in range(25):
        logits = (rng.standard_normal(vocab) * 2).astype(np.float32)
        logits[[1, 2, 9, 11, 12, 13, 14]] += 5  # what bans concern is likely
        params = params_of(seed=seed * 0x9E3779B97F4A7C15 % 2**64, **CASES[name])
        expected = drawn(processed(logits, PROMPT, OUTPUT, params), params, len(PROMPT) + len(OUTPUT))
        assert draw(isa, logits, params)[0] == expected


@pytest.mark.parametrize("isa", ISAS)
def test_equals_are_cut_by_token_id(isa):
    """Among equal logits the lower ids stay, so that top_k keeps exactly k and top_p one set."""
    logits = np.zeros(100, np.float32)
    for seed in range(40):
        assert draw(isa, logits, params_of(seed=seed, top_k=3))[0] < 3
        assert draw(isa, logits, params_of(seed=seed, top_p=0.045))[0] < 5
        assert draw(isa, logits, params_of(seed=seed, temperature=0.0))[0] == 0


@pytest.mark.parametrize(
    "fields", [{}, {"temperature": 0.7}, {"top_k": 4}, {"top_p": 0.8}, {"min_p": 0.1}, {"top_k": 6, "top_p": 0.7}]
)
def test_frequencies_follow_the_probabilities(fields):
    """Chi-square over 4,000 draws: a right sampler fails here once in ten thousand times, and seeds are fixed."""
    logits = np.random.default_rng(8).standard_normal(12).astype(np.float32) * 1.5
    expected = probabilities(logits.astype(np.float64), params_of(**fields)) * 4000
    counts = np.zeros(12)
    for seed in range(4000):
        counts[draw(ISAS[-1], logits, params_of(seed=seed * 7919, **fields), [1], [2])[0]] += 1
    assert (counts[expected == 0] == 0).all()
    seen = expected > 0
    chi_square = ((counts[seen] - expected[seen]) ** 2 / expected[seen]).sum()
    freedom = seen.sum() - 1
    # Wilson and Hilferty's approximation of the 0.9999 quantile
    assert chi_square < freedom * (1 - 2 / (9 * freedom) + 3.719 * np.sqrt(2 / (9 * freedom))) ** 3


@pytest.mark.parametrize("isa", ISAS)
def test_noise_is_exact_at_its_ends(isa):
    """The largest and smallest noise in a large vocabulary decide as they do in double precision."""
    vocab = 49152
    for seed in range(6):
        noise = gumbel(vocab, seed, 1)
        for sign in (1, -1):
            # Logits that leave differences of some 1e-4 between the best tokens.
            logits = (-noise * (1 - sign * 1e-3)).astype(np.float32)
            sums = logits.astype(np.float64) + noise
            token = draw(isa, logits, params_of(seed=seed), prompt=[1], output=[])[0]
            assert sums[token] >= sums.max() - 5e-6


@pytest.mark.parametrize("isa", ISAS)
def test_logprobs_are_of_the_raw_logits(isa):
    """Bans and temperature change what is drawn, not the log-probability that is reported."""
    logits = np.random.default_rng(5).standard_normal(300).astype(np.float32) * 3
    exact = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum())
    params = params_of(allowed_token_ids=(17,), temperature=0.3, logprobs=4)
    token, entry = draw(isa, logits, params)
    assert token == entry.token == 17
    assert entry.logprob == pytest.approx(exact[17], abs=1e-5)
    assert entry.rank == (logits > logits[17]).sum() + 1
    best = np.argsort(-logits)[:4]
    assert [t for t, _ in entry.top] == best.tolist()
    np.testing.assert_allclose([p for _, p in entry.top], exact[best], atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_named_tokens_are_reported_in_place_of_the_best(isa):
    """In their order, behind the drawn token, which comes once."""
    logits = np.random.default_rng(6).standard_normal(300).astype(np.float32) * 3
    exact = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum())
    for named, expected in [((250, 3), [17, 250, 3]), ((3, 17), [17, 3])]:
        _, entry = draw(isa, logits, params_of(allowed_token_ids=(17,), logprobs=2, logprob_token_ids=named))
        assert [token for token, _ in entry.top] == expected
        np.testing.assert_allclose([p for _, p in entry.top], exact[expected], atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "name", sorted(CASES.keys() - {"penalties that overflow"})
)  # the twin's probabilities vanish there
def test_processed_scores_are_of_what_is_drawn_from(name, isa):
    """vLLM's `processed_logits`: over the temperature, minus infinity where nothing can be drawn; and their log-softmax."""
    logits = (np.random.default_rng(7).standard_normal(300) * 2).astype(np.float32)
    asked = params_of(**CASES[name])
    row = processed(logits, PROMPT, OUTPUT, asked)
    if asked.temperature:
        row = np.where(probabilities(row, asked) > 0, row / asked.temperature, -np.inf)
        row = np.clip(row, -np.finfo(np.float32).max, np.finfo(np.float32).max, where=row > -np.inf, out=row)
    for mode, expected in (("processed_logits", row), ("processed_logprobs", row - np.logaddexp.reduce(row))):
        token, entry = draw(isa, logits, params_of(logprobs=300, logprobs_mode=mode, **CASES[name]))
        assert entry.logprob == pytest.approx(expected[token], rel=1e-4, abs=1e-4)
        assert entry.rank == (row > row[token]).sum() + 1
        assert {t for t, _ in entry.top} == set(np.flatnonzero(row > -np.finfo(np.float32).max).tolist())
        for t, score in entry.top:
            assert score == pytest.approx(expected[t], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("isa", ISAS)
def test_raw_logits_are_reported_as_they_are(isa):
    """vLLM's `raw_logits`: whatever was banned or divided."""
    logits = np.random.default_rng(5).standard_normal(300).astype(np.float32) * 3
    asked = params_of(allowed_token_ids=(17,), temperature=0.3, logprobs=4, logprobs_mode="raw_logits")
    _, entry = draw(isa, logits, asked)
    assert entry.logprob == logits[17]
    assert entry.top == [(int(t), float(logits[t])) for t in np.argsort(-logits)[:4]]


@pytest.mark.parametrize("isa", ISAS)
def test_a_mask_bans_what_its_bits_leave_out(isa):
    """Bit t of a row allows token t."""
    logits = np.arange(70, dtype=np.float32)
    bits = np.zeros(72, np.uint8)
    bits[[3, 21]] = 1
    mask = np.packbits(bits, bitorder="little").tobytes()
    assert draw(isa, logits, params_of(temperature=0.0), mask=mask)[0] == 21


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_an_error(isa, wrong):
    """NaN and infinities end the request, wherever in the row they stand."""
    for at in (0, 15, 63, 66):
        logits = np.zeros(67, np.float32)
        logits[at] = wrong
        with pytest.raises(ValueError, match="not finite"):
            draw(isa, logits, params_of())


def test_a_request_that_bans_every_token_is_an_error():
    """Nothing is drawn where nothing may be."""
    params = params_of(allowed_token_ids=(4,), min_tokens=9, stop_token_ids=(4,))
    with pytest.raises(ValueError, match="no token can be drawn"):
        draw(ISAS[-1], np.zeros(67, np.float32), params)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"logit_bias": {67: 1.0}}, "logit_bias: token id 67"),
        ({"allowed_token_ids": (-1,)}, "allowed_token_ids: token id -1"),
        ({"bad_words": ((1, 99),)}, "bad_words: token id 99"),
    ],
)
def test_token_ids_outside_the_vocabulary_are_refused(fields, message):
    """The message names field and id."""
    with pytest.raises(ValueError, match=message):
        draw(ISAS[-1], np.zeros(67, np.float32), params_of(**fields))
