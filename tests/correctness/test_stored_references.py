"""What the other tests here compare with is what transformers says."""

from __future__ import annotations

import os

import pytest
from references import CUT_TOKENS, NUM_TOKENS, as_reference, asked, reference
from transformers_reference import compute

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not os.environ.get("OCTAVO_DEEP_TESTS"), reason="transformers takes minutes; OCTAVO_DEEP_TESTS=1 asks it"
    ),
]


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_transformers_still_says_so(name, request):
    model = request.getfixturevalue(name)
    stored, given = reference(model), asked(model)
    found = as_reference(given, compute(model, given))
    pairs = list(zip([*found.continuations, found.cut], [*stored.continuations, stored.cut], strict=True))
    for new, old in pairs:
        count = next((i for i, gap in enumerate(old.gaps) if gap < 1e-4), len(old.gaps))
        assert new.tokens[:count] == old.tokens[:count]
        assert new.gaps[:count] == pytest.approx(old.gaps[:count], abs=1e-3)
        assert len(old.tokens) in {NUM_TOKENS, CUT_TOKENS}
    assert found.losses == pytest.approx(stored.losses, abs=1e-5)
    assert found.cut.logprobs == pytest.approx(stored.cut.logprobs, abs=1e-3)
