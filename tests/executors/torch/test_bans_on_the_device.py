"""Banned and favoured tokens lie on the device: sent once for each request, not in every step."""

from __future__ import annotations

import torch

from octavo_engine.executors.torch import sampler
from octavo_engine.executors.torch.input_batch import RequestState
from octavo_engine.executors.torch.sampler import Extras, Sampler, SamplingTable
from octavo_engine.kernels.reference_operations import ReferenceOperations
from octavo_engine.sampling_params import SamplingParams

VOCABULARY = 70


def state(name: str, **sampling) -> RequestState:
    return RequestState(name, [1, 2], 2, SamplingParams(max_tokens=9, **sampling), [], 0)


def test_mask_is_made_once_for_all_that_share_a_list(monkeypatch) -> None:
    """Whatever the number of steps, and of requests with the same list or none."""
    made = []
    mask = sampler._mask
    monkeypatch.setattr(sampler, "_mask", lambda allowed, size: made.append(allowed) or mask(allowed, size))
    allowed = tuple(range(0, VOCABULARY, 3))
    states = [state(f"r{i}", allowed_token_ids=allowed, logit_bias={i: 0.5, 69: -1.0}) for i in range(3)]
    states += [state("free"), state("free as well")]
    for _ in range(4):
        extras = Extras.of(states, [3] * 5, VOCABULARY, torch.device("cpu"))
        assert extras is not None
    assert made == [allowed, ()]
    assert extras.allowed is not None
    words = extras.allowed.long()
    bits = torch.tensor([[bool(row[t // 32] >> t % 32 & 1) for t in range(VOCABULARY)] for row in words])
    assert [row.nonzero().flatten().tolist() for row in bits[:3]] == [list(allowed)] * 3
    assert bits[3:].all()
    assert extras.biases is not None
    rows, tokens, values = (column.tolist() for column in extras.biases)
    assert list(zip(rows, tokens, values, strict=True)) == [
        (i, token, value) for i in range(3) for token, value in ((i, 0.5), (69, -1.0))
    ]


def test_what_is_asked_for_is_sent_when_the_batch_changes_alone(monkeypatch) -> None:
    """Bad words, masks and biases stay on the device while the same requests draw, in their order."""
    sent = []
    send = sampler.sent
    monkeypatch.setattr(sampler, "sent", lambda *args: sent.append(args) or send(*args))
    token_ids = torch.zeros(4, 16, dtype=torch.int32)
    made = Sampler(ReferenceOperations(), SamplingTable(4, torch.device("cpu")), token_ids, lambda hidden: hidden)
    states = [state("words", bad_words=((3, 4), (5,))), state("early", min_tokens=2, eos_token_ids=(9,)), state("free")]

    def at(lengths, some=states):
        sent.clear()
        extras = made._extras(some, lengths, VOCABULARY)
        assert extras is not None
        expected = Extras.of(some, lengths, VOCABULARY, torch.device("cpu"))
        assert expected is not None
        for got, wanted in zip(vars_of(extras.bans), vars_of(expected.bans), strict=True):
            assert torch.equal(got, wanted)
        return len(sent) > 1  # the comparison's own

    assert at([2, 2, 2])
    assert not at([3, 3, 3])
    assert at([4, 4, 4]), "a request has its min_tokens: its stop tokens may be drawn"
    assert not at([5, 5, 5])
    assert at([6, 6, 6], states[::-1]), "rows have moved"
    assert at([6, 6], states[:2])
    assert at([6, 6], [state("words", bad_words=((3, 4),)), states[1]]), "another request, of the same name"


def vars_of(bans):
    return (bans.rows, bans.tokens, bans.prefix_starts, bans.prefixes)
