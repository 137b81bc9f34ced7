"""The engine over the kernels, its steps overlapping, draws the tokens that the plain operations draw on the CPU.

On a GPU through CUDA graphs too; without one in Triton's interpreter, for a few tokens.
"""

from __future__ import annotations

import pytest
import torch
from bench.whole_engine import SMALL, expected, run, small_engine, small_requests

ON_CARD = torch.cuda.is_available()
NUM_TOKENS = 24 if ON_CARD else 2


@pytest.mark.slow
@pytest.mark.parametrize("eager", [True, False] if ON_CARD else [True])
@pytest.mark.parametrize("kind", SMALL)
def test_the_engine_over_kernels_draws_what_the_twins_draw(triton_operations, device, kind, eager):
    core = small_engine(kind, device, operations=triton_operations, eager=eager)
    assert run(core, small_requests(NUM_TOKENS)) == expected(kind, NUM_TOKENS)
