"""The search finds what a plain one does that goes on to the end, and stops as soon as nothing better can come."""

from __future__ import annotations

import numpy as np
import pytest
from octavo_testing.plain_beams import plain_beam_search

from octavo_engine.messages import TokenLogprob
from octavo_engine.server.beams.search import BeamSearch

VOCABULARY = 12
PROMPT = [3, 1, 4]


def model(seed, ending=0.0):
    """A function from tokens to log-probabilities; `ending` makes the token 0 likelier."""

    def logprobs_of(tokens):
        logits = np.random.default_rng([seed, *tokens]).normal(size=VOCABULARY) * 2
        logits[0] += ending
        return logits - np.logaddexp.reduce(logits)

    return logprobs_of


def searched(logprobs_of, *, width, max_tokens, ends, length_penalty):
    """The best answers of `BeamSearch`, and the number of its steps."""
    search = BeamSearch(len(PROMPT), width, max_tokens, ends, length_penalty)
    steps = 0
    while not search.finished:
        offers = []
        for beam in search.live:
            row = logprobs_of([*PROMPT, *beam.token_ids])
            best = np.argsort(-row, kind="stable")[: search.num_offered].tolist()
            offers.append(TokenLogprob(best[0], float(row[best[0]]), 1, [(i, float(row[i])) for i in best]))
        search.advance(offers)
        steps += 1
    return [(list(beam.token_ids), beam.logprob, beam.ended) for beam in search.best()], steps


@pytest.mark.parametrize("length_penalty", [1.0, 0.0, -1.0, 2.5, 10.0])
@pytest.mark.parametrize("width", [1, 2, 3, 6])
def test_it_finds_what_a_plain_search_finds(width, length_penalty):
    """Tokens, sums and order; answers of several ends included."""
    early = 0
    for seed in range(8):
        for ends, ending in (([0], 0.0), ([0], 3.0), ([0, 5, 7], 1.0), ([], 0.0)):
            asked = {"width": width, "max_tokens": 7, "ends": ends, "length_penalty": length_penalty}
            expected = plain_beam_search(model(seed, ending), PROMPT, **asked)
            found, steps = searched(model(seed, ending), **asked)
            assert [(tokens, ended) for tokens, _, ended in found] == [(t, e) for t, _, e in expected]
            assert [total for _, total, _ in found] == pytest.approx([total for _, total, _ in expected])
            early += steps < 7
    assert early > 0 or length_penalty > 0  # it need not go on to the end where length is no merit


def test_only_the_best_answers_are_kept():
    """An answer that many others surpass never comes back: a long search holds as many as it is wide."""
    search = BeamSearch(1, 2, 1000, [9], 1.0)
    offer = [(1, -0.1), (9, -3.0), (2, -4.0), (3, -5.0)]
    for _ in range(50):
        search.advance([TokenLogprob(1, -0.1, 1, offer) for _ in search.live])
    assert len(search._completed) == 2
    assert search.best()[0].logprob == max(beam.logprob for beam in (*search._completed, *search.live))


def test_a_token_of_no_probability_is_no_answer():
    """What a row's mask has banned is offered with minus infinity."""
    search = BeamSearch(1, 2, 3, [9], 1.0)
    search.advance([TokenLogprob(1, -0.1, 1, [(1, -0.1), (9, -3.0), (2, float("-inf")), (3, float("-inf"))])])
    assert [beam.token_ids for beam in search.live] == [(1,)]
    assert [(beam.token_ids, beam.ended) for beam in search.best()] == [((1,), False), ((9,), True)]


def test_an_entry_names_its_own_token_and_rank():
    """Log-probabilities of an answer are those of its own tokens."""
    search = BeamSearch(1, 2, 2, [], 1.0)
    search.advance([TokenLogprob(4, -0.1, 1, [(4, -0.1), (5, -2.0), (6, -3.0), (7, -4.0)])])
    second = search.best()[1]
    assert [(entry.token_id, entry.logprob, entry.rank) for entry in second.entries] == [(5, -2.0, 2)]
