"""Draws, log-probabilities, bans and penalties on the device are those of the twins, ties and edges included."""

from __future__ import annotations

import pytest
import torch

from octavo_engine.kernels.operations import Bans, KnownTokens, Penalties, TokenCounts
from octavo_engine.kernels.reference_operations import ReferenceOperations
from octavo_engine.kernels.reference_sampling import Filters, SamplingBatch, apply_penalties
from octavo_engine.kernels.triton import sampling as sampling_kernels

REFERENCE = ReferenceOperations()
FILTERS = {
    "greedy": {"temperature": 0.0},
    "plain": {},
    "cool": {"temperature": 0.3},
    "top_k": {"top_k": 5},
    "top_k of all": {"top_k": 5000},
    "one": {"top_k": 1},
    "top_p": {"top_p": 0.7},
    "tiny top_p": {"top_p": 1e-6},
    "min_p": {"min_p": 0.2},
    "all three": {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.02},
    "k and p": {"top_k": 20, "top_p": 0.5},
    "almost greedy": {"temperature": 1e-5, "top_p": 0.9},
    "denormal temperature": {"temperature": 1e-39, "top_k": 3, "min_p": 0.5},
    "only the best": {"min_p": 1.0, "top_k": 4},
    "denormal top_p": {"top_p": 1e-45, "temperature": 100.0},
}


def sampling_batch(filters, device):
    """A row for each of `filters`, seeds past 32 bits and positions past 16."""
    draws = [Filters(**each, seed=7 + i * 0x1_2345_6789) for i, each in enumerate(filters)]
    return SamplingBatch.of(draws, [3 + i * 9001 for i in range(len(filters))], device)


def known_tokens(sequences, device):
    """[(prompt, output)] of each row, in a table of other order."""
    table = torch.full((len(sequences) + 1, 64), 2, dtype=torch.int32)
    rows = list(range(len(sequences), 0, -1))
    for row, (prompt, output) in zip(rows, sequences, strict=True):
        table[row, : len(prompt) + len(output)] = torch.tensor([*prompt, *output])
    ints = lambda values: torch.tensor(values, dtype=torch.int32, device=device)  # noqa: E731
    lengths = ints([len(p) + len(o) for p, o in sequences])
    return KnownTokens(table.to(device), ints(rows), lengths, ints([len(p) for p, _ in sequences]))


@pytest.mark.sample(vocab=[1024, 2100])
@pytest.mark.parametrize(("vocab", "spread"), [(33, 1.0), (33, 6.0), (1024, 1.0), (2100, 6.0)])
def test_draws_are_the_twins(triton_operations, device, vocab, spread):
    """A row for every filter; a third of the tokens is banned."""
    batch = sampling_batch([*FILTERS.values()], device)
    logits = torch.randn(len(FILTERS), vocab, device=device) * spread
    logits[torch.rand(logits.shape, device=device) < 0.3] = -torch.inf
    assert triton_operations.sample(logits, batch).tolist() == REFERENCE.sample(logits, batch).tolist()


def test_rows_too_flat_to_be_collected_draw_alike(triton_operations, device, monkeypatch):
    """More candidates than there is a place for: the row is filtered where it lies."""
    monkeypatch.setattr(sampling_kernels, "MOST_KEPT", 32)
    batch = sampling_batch([{"top_k": 40}, {"top_p": 0.9}, {"min_p": 0.1, "top_p": 0.8}, {"top_k": 20}], device)
    logits = torch.randn(4, 1500, device=device)
    assert triton_operations.sample(logits, batch).tolist() == REFERENCE.sample(logits, batch).tolist()


def test_parts_of_a_row_are_collected_in_the_order_of_tokens(triton_operations, device):
    """Over several parts, some of them beyond the vocabulary; equals at every edge."""
    filters = [{"top_k": 700}, {"top_p": 0.9}, {"top_p": 0.999}, {"min_p": 0.3}, {"top_k": 300, "top_p": 0.5}, {}]
    batch = sampling_batch(filters, device)
    logits = (torch.randn(len(filters), 2200, device=device) * 4).round() / 2
    assert triton_operations.sample(logits, batch).tolist() == REFERENCE.sample(logits, batch).tolist()


def test_rows_of_padding_draw_nothing(triton_operations, device):
    """Position 0: a request has a token before each that it draws. Whatever else their rows hold."""
    filters = [{"top_p": 0.9}, {"top_k": 3}, {}, {"temperature": 0.0}]
    batch = sampling_batch(filters, device)
    batch.positions[:] = torch.tensor([0, 5, 0, 0], device=device)
    logits = torch.randn(4, 100, device=device)
    logits[2] = torch.nan
    drawn = triton_operations.sample(logits, batch).tolist()
    assert drawn == REFERENCE.sample(logits, batch).tolist()
    assert [token >= 0 for token in drawn] == [False, True, False, False]


@pytest.mark.sample(name=["greedy", "plain", "top_k", "top_p", "min_p", "all three"])
@pytest.mark.parametrize("name", FILTERS)
def test_equals_are_drawn_as_by_the_twin(triton_operations, device, name):
    """Logits of few values: places in the order are decided by token ids; -0 equals 0."""
    rows = 3
    logits = torch.randint(-1, 3, (rows, 1500), device=device).float()
    logits[logits == 0] *= torch.where(torch.rand_like(logits[logits == 0]) < 0.5, -1.0, 1.0)
    batch = sampling_batch([FILTERS[name]] * rows, device)
    assert triton_operations.sample(logits, batch).tolist() == REFERENCE.sample(logits, batch).tolist()


def test_rows_that_cannot_be_drawn_say_why(triton_operations, device):
    logits = torch.zeros(4, 100, device=device)
    logits[0] = -torch.inf
    logits[1, 50], logits[2, 99] = torch.nan, torch.inf
    for filters in ({}, {"temperature": 0.0}, {"top_k": 3}):
        drawn = triton_operations.sample(logits, sampling_batch([filters] * 4, device)).tolist()
        assert drawn[:3] == [-1, -2, -2]
        assert drawn[3] >= 0


@pytest.mark.sample(num_top=[0, 5], vocab=[20, 2100])
@pytest.mark.parametrize("num_top", [0, 1, 5, 20])
@pytest.mark.parametrize("vocab", [20, 1024, 2100])
def test_logprobs_are_the_twins(triton_operations, device, num_top, vocab):
    logits = torch.randn(4, vocab, device=device) * 5
    logits[1] = torch.randint(0, 4, (vocab,), device=device).float()  # ties
    logits[2, : vocab - 8] = -torch.inf  # fewer than wanted have a chance; the first tile has none
    tokens = torch.tensor([0, vocab - 1, vocab - 2, vocab // 2], device=device)
    got, expected = (o.logprobs(logits, tokens, num_top) for o in (triton_operations, REFERENCE))
    torch.testing.assert_close(got.own, expected.own, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got.top, expected.top, atol=1e-5, rtol=1e-5)
    assert torch.equal(got.ranks, expected.ranks)
    assert torch.equal(got.top_ids, expected.top_ids)


def token_counts(slots, counted, vocab, device):
    """A table of nothing yet, with a slot more than there are, in which anything may be."""
    ints = lambda values: torch.tensor(values, dtype=torch.int32, device=device)  # noqa: E731
    table = torch.randint(-(2**31), 2**31, (len(slots) + 1, vocab), dtype=torch.int64).int().to(device)
    return TokenCounts(table, ints(slots), ints(counted))


SEQUENCES = [([5, 5, 1100], [1100, 7, 7, 7]), ([3, 1400], []), ([1, 2], [3] * 40), ([9], [9, 1023, 1024])]


def penalties_of(device):
    numbers = lambda *values: torch.tensor(values, device=device)  # noqa: E731
    return Penalties(numbers(1.5, 1.3, 1.0, 1.0), numbers(0.2, 0.5, -0.3, 0.0), numbers(0.4, 0.5, 0.1, 0.0))


def test_penalties_are_the_twins(triton_operations, device):
    """Prompt and output, repeats, an empty output, tokens of other tiles, and a row without penalties."""
    known = known_tokens(SEQUENCES, device)
    logits = torch.randn(4, 1500, device=device) * 3
    got, expected = logits.clone(), logits.clone()
    for operations, out in ((triton_operations, got), (REFERENCE, expected)):
        operations.penalize(out, penalties_of(device), known, token_counts([3, 0, 2, -1], [0] * 4, 1500, device))
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(got[3], logits[3])


@pytest.mark.parametrize("new", [1, 3])
def test_counts_that_are_kept_penalize_as_those_that_are_taken_afresh(triton_operations, device, new):
    """Some tokens at a time, rows in another order each time; a row that starts over in a slot that another has used."""
    for operations in (triton_operations, REFERENCE):
        counts = token_counts([0, 1, 2, 3], [0] * 4, 1500, device)
        for length in range(0, 41, new):
            sequences = [(prompt, output[:length]) for prompt, output in SEQUENCES]
            known = known_tokens(sequences, device)
            lengths = known.lengths.tolist()
            before = [len(prompt) + min(len(output), length - new) for prompt, output in SEQUENCES]
            counted = [n if length and n < m else m if length else 0 for n, m in zip(before, lengths, strict=True)]
            if length == 2 * new:
                counted[2] = 0
                counts.slots[[0, 2]] = counts.slots[[2, 0]]
                counted[0] = 0
            kept = TokenCounts(counts.table, counts.slots, torch.tensor(counted, dtype=torch.int32, device=device))
            logits = torch.randn(4, 1500, device=device) * 3
            afresh = logits.clone()
            operations.penalize(logits, penalties_of(device), known, kept)
            REFERENCE.penalize(afresh, penalties_of(device), known, token_counts([0, 1, 2, 3], [0] * 4, 1500, device))
            torch.testing.assert_close(logits, afresh, atol=1e-6, rtol=1e-6)


def test_penalties_of_the_twin_are_those_of_the_definition(device):
    known = known_tokens(SEQUENCES, device)
    logits = torch.randn(4, 1500, device=device)
    expected = [
        apply_penalties(logits[i], prompt, output, repetition=r, frequency=f, presence=p)
        for i, ((prompt, output), r, f, p) in enumerate(
            zip(SEQUENCES, (1.5, 1.3, 1.0, 1.0), (0.2, 0.5, -0.3, 0.0), (0.4, 0.5, 0.1, 0.0), strict=True)
        )
    ]
    REFERENCE.penalize(logits, penalties_of(device), known, token_counts([3, 0, 2, 1], [0] * 4, 1500, device))
    torch.testing.assert_close(logits, torch.stack(expected))


def test_bans_hold_where_the_output_ends_as_they_say(triton_operations, device):
    known = known_tokens([([8, 1, 2], [4, 1, 2]), ([1, 2], [2]), ([1, 2], [])], device)
    ints = lambda values: torch.tensor(values, dtype=torch.int32, device=device)  # noqa: E731
    words = [(0, (), 3), (0, (1, 2), 5), (0, (4, 2), 6), (1, (1, 2, 2), 7), (1, (2,), 8), (2, (2,), 9), (2, (), 4000)]
    starts = [0]
    for _, prefix, _ in words:
        starts.append(starts[-1] + len(prefix))
    bans = Bans(
        rows=ints([row for row, _, _ in words]),
        tokens=ints([token for _, _, token in words]),
        prefix_starts=ints(starts),
        prefixes=ints([t for _, prefix, _ in words for t in prefix]),
    )
    allowed = torch.randint(-(2**31), 2**31, (3, 5), dtype=torch.int64, device=device).int()
    logits = torch.zeros(3, 131, device=device)
    got, expected, alone = logits.clone(), logits.clone(), logits.clone()
    triton_operations.ban(got, bans, known, allowed)
    REFERENCE.ban(expected, bans, known, allowed)
    triton_operations.ban(alone, bans, known)
    assert torch.equal(got, expected)
    assert alone.isinf().nonzero().tolist() == [[0, 3], [0, 5], [1, 8]]
