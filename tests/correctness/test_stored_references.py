"""The stored references are what transformers computes."""

from __future__ import annotations

import pytest
from octavo_testing.deep import DEEP
from references import CUT_TOKENS, NUM_TOKENS, as_reference, asked, beyond_doubt, reference
from transformers_reference import compute

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not DEEP, reason="transformers takes minutes; OCTAVO_DEEP_TESTS=1 asks it"),
]


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_transformers_still_says_so(name, request):
    model = request.getfixturevalue(name)
    stored, given = reference(model), asked(model)
    found = as_reference(given, compute(model, given))
    pairs = list(zip([*found.continuations, found.cut], [*stored.continuations, stored.cut], strict=True))
    for new, old in pairs:
        count = beyond_doubt(old.gaps)
        assert new.tokens[:count] == old.tokens[:count]
        assert new.gaps[:count] == pytest.approx(old.gaps[:count], abs=1e-3)
        assert len(old.tokens) in {NUM_TOKENS, CUT_TOKENS}
    assert found.losses == pytest.approx(stored.losses, abs=1e-5)
    assert found.cut.logprobs == pytest.approx(stored.cut.logprobs, abs=1e-3)
