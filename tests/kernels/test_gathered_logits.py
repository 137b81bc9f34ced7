"""Kernels read gathered logits as they lie, whether or not the ranks divide the vocabulary."""

from __future__ import annotations

import pytest
import torch

from octavo_engine.executors.torch import parallel
from octavo_engine.executors.torch.parallel import RankedParallel
from octavo_engine.kernels.reference_operations import ReferenceOperations
from octavo_models.partition import Place


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("vocab", [301, 50_257, 32_001])
def test_gathered_logits_are_those_of_one_rank(triton_operations, device, monkeypatch, vocab, ranks):
    """Rows after the first among them: a view of padded rows would shift these."""
    whole = torch.randn(2, vocab, device=device)
    rows = -(-vocab // ranks)
    parts = torch.nn.functional.pad(whole, (0, rows * ranks - vocab), value=99.0).split(rows, 1)
    monkeypatch.setattr(parallel, "gather_into", lambda out, own, group: out.copy_(torch.cat(parts)))
    gathered = RankedParallel(Place.of(0, ranks, 1)).gather_logits(parts[0], vocab)
    got = triton_operations.soft_cap_logits(gathered, 1.0, None)
    assert torch.equal(got, ReferenceOperations().soft_cap_logits(whole, 1.0, None))
