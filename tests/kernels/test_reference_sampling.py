"""Random numbers are the published ones; each step of sampling does what its parameter promises, ties included."""

from __future__ import annotations

import pytest
import torch

from octavo_engine.kernels.reference_sampling import (
    Filters,
    apply_penalties,
    candidates,
    gumbel_noise,
    philox,
    process_logits,
    sample,
    token_logprobs,
)
from octavo_engine.sampling_params import SamplingParams

ONES = 0xFFFFFFFF


def params(**fields):
    return SamplingParams(max_tokens=100, **fields)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((ONES, ONES, ONES, ONES), (ONES, ONES), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, expected):
    """Vectors of philox4x32-10 in Random123's kat_vectors: zeros, ones, digits of pi."""
    words = philox(torch.tensor([counter]), key)[0].tolist()
    assert " ".join(f"{word:08x}" for word in words) == expected


def test_gumbel_noise_is_the_documented_function_of_seed_position_and_token():
    seed, position, token = 0x123456789ABCDEF0, 77, 30_001
    word = philox(torch.tensor([[token >> 2, position, 0, 0]]), (seed & ONES, seed >> 32))[0, token & 3]
    u = ((int(word) >> 8) + 0.5) / 2**24
    expected = -torch.log(-torch.log(torch.tensor(u, dtype=torch.float64)))
    noise = gumbel_noise(49_152, seed, position)
    assert noise[token] == expected.float()
    assert torch.isfinite(noise).all()
    assert torch.equal(noise[:1001], gumbel_noise(1001, seed, position))


def test_noise_has_the_mean_and_variance_of_a_standard_gumbel():
    noise = gumbel_noise(262_144, 1, 2).double()
    assert abs(noise.mean() - 0.5772) < 0.01
    assert abs(noise.var() - torch.pi**2 / 6) < 0.02


def test_draws_follow_the_softmax_of_the_logits():
    """4,000 positions of one seed: each token's share is its probability within four standard errors."""
    logits = torch.tensor([2.0, 1.0, 0.0, 0.5, -torch.inf])
    draws = torch.tensor([sample(logits, params(temperature=0.7, seed=9), position) for position in range(4000)])
    share = torch.bincount(draws, minlength=5) / 4000
    p = (logits / 0.7).softmax(-1)
    assert ((share - p).abs() <= 4 * (p * (1 - p) / 4000).sqrt()).all()


def test_a_draw_is_repeatable_and_differs_by_seed_and_position():
    logits = torch.zeros(5000)
    first = sample(logits, params(seed=1), 10)
    assert sample(logits, params(seed=1), 10) == first
    assert sample(logits, params(seed=2), 10) != first
    assert sample(logits, params(seed=1 + 2**32), 10) != first
    assert sample(logits, params(seed=1), 11) != first


def test_temperature_zero_takes_the_best_and_the_lowest_of_equals():
    assert sample(torch.tensor([0.0, 3.0, 1.0, 3.0]), params(temperature=0.0), 5) == 1


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"top_k": 2}, [1, 3]),
        ({"top_k": 3}, [0, 1, 3]),  # 0 and 4 tie for the third place
        ({"top_k": 99}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.2}, [1]),
        ({"top_p": 0.41}, [1, 3]),
        ({"top_p": 0.71}, [0, 1, 3]),
        ({"top_p": 1e-9}, [1]),
        ({"min_p": 0.7}, [1, 3]),
        ({"min_p": 0.3}, [0, 1, 3, 4]),
        ({"min_p": 0.3, "top_k": 3, "top_p": 0.85}, [0, 1, 3]),  # of 0.4, 0.3, 0.14: renormalised, all are needed
        ({"top_k": 2, "top_p": 0.57}, [1]),  # 0.4 / 0.7
    ],
)
def test_filters_keep_the_smallest_set_and_break_ties_by_token_id(fields, expected):
    logits = torch.tensor([0.14, 0.4, 0.02, 0.3, 0.14]).log()
    assert candidates(logits, params(**fields)).nonzero()[:, 0].tolist() == expected


def test_filters_never_bring_back_a_banned_token():
    logits = torch.tensor([-torch.inf, 1.0, -torch.inf, 2.0])
    for fields in ({"top_k": 4}, {"top_p": 0.9999999}, {"min_p": 1e-30}, {}):
        assert not candidates(logits, params(**fields))[[0, 2]].any()


def test_bans_and_biases_come_in_the_documented_order():
    """A bias can't lift a ban, and min_tokens bans the stop tokens only until it is reached."""
    logits = torch.zeros(6)
    p = params(
        logit_bias={0: 5.0, 3: 2.0},
        allowed_token_ids=(1, 2, 3, 4),
        min_tokens=2,
        eos_token_ids=(1,),
        stop_token_ids=(2,),
    )
    inf = torch.inf
    assert process_logits(logits, [5], [], p).tolist() == [-inf, -inf, -inf, 2.0, 0.0, -inf]
    assert process_logits(logits, [5], [3, 3], p).tolist() == [-inf, 0.0, 0.0, 2.0, 0.0, -inf]
    assert not logits.any(), "the raw logits stay as they are"


def test_bad_words_ban_the_token_that_would_complete_them():
    p = params(bad_words=((4,), (1, 2, 3)))
    banned = lambda output: process_logits(torch.zeros(6), [1, 2], output, p).isinf().nonzero()[:, 0].tolist()  # noqa: E731
    assert banned([]) == [4]
    assert banned([1]) == [4]
    assert banned([0, 1, 2]) == [3, 4]
    assert banned([1, 2, 0]) == [4]


def test_penalties_count_as_vllm_counts_them():
    """Repetition sees prompt and output, once each; frequency and presence see the output alone."""
    logits = torch.tensor([2.0, -2.0, 1.0, 1.0])
    assert process_logits(logits, [0], [1, 1], params(repetition_penalty=2.0)).tolist() == [1.0, -4.0, 1.0, 1.0]
    p = params(frequency_penalty=0.5, presence_penalty=0.25)
    assert process_logits(logits, [0], [1, 1, 2], p).tolist() == [2.0, -3.25, 0.25, 1.0]


@pytest.mark.parametrize("repetition", [1e-45, 1e-30, 1e30])
def test_a_penalized_logit_stays_finite_and_bans_stay(repetition):
    logits = torch.tensor([30.0, -30.0, 0.0, -torch.inf, 5.0])
    x = apply_penalties(logits, [0, 1, 2, 3], [0], repetition=repetition, frequency=-2.0, presence=-2.0)
    assert x[[0, 1, 2, 4]].isfinite().all()
    assert x[3] == -torch.inf
    assert x[4] == 5.0


@pytest.mark.parametrize("temperature", [1e-5, 1e-39, 1e-45])
def test_tiny_temperatures_leave_the_best_and_its_equals(temperature):
    """The largest logit is subtracted first, so that nothing overflows."""
    logits = torch.tensor([30.0, 31.0, -3e38, 31.0, -torch.inf])
    drawn = {sample(logits, Filters(temperature=temperature, seed=seed), 5) for seed in range(20)}
    assert drawn == {1, 3}


def test_nothing_to_draw_is_an_error_that_says_why():
    with pytest.raises(ValueError, match="every token is banned"):
        sample(torch.full((4,), -torch.inf), params(), 3)
    with pytest.raises(ValueError, match="the largest logit is nan"):
        sample(torch.tensor([0.0, torch.nan]), params(temperature=0.0), 3)


def test_logprobs_rank_the_token_and_list_the_best():
    logits = torch.tensor([1.0, 3.0, 2.0, 3.0, 0.0])
    expected = logits.log_softmax(-1)
    logprob, rank, top = token_logprobs(logits, 2, 3)
    assert (logprob, rank) == (expected[2], 3)
    assert [t for t, _ in top] == [1, 3, 2]
    assert token_logprobs(logits, 3, 0) == (expected[3], 1, [])
    assert len(token_logprobs(logits, 0, 20)[2]) == 5
    assert [t for t, _ in token_logprobs(logits, 0, -1)[2]] == [1, 3, 2, 0, 4]
