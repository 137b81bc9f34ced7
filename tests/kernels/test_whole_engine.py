"""The engine over the kernels, its steps overlapping, draws the tokens that the plain operations draw on the CPU.

On a GPU through CUDA graphs too; without one in Triton's interpreter, for a few tokens, and through graphs that record
each launch there.
"""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from bench.whole_engine import SMALL, expected, run, small_engine, small_requests

ON_GPU = torch.cuda.is_available()
NUM_TOKENS = 24 if ON_GPU else 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("eager", [True, False], ids=["eager", "graphs"])
def test_the_engine_over_kernels_draws_what_the_twins_draw(triton_operations, device, kind, eager):
    recorder = None if ON_GPU or eager else _recorder()
    with nullcontext() if recorder is None else recorder.launches():
        core = small_engine(kind, device, operations=triton_operations, recorder=recorder, eager=eager)
        assert run(core, small_requests(NUM_TOKENS)) == expected(kind, NUM_TOKENS)
    assert recorder is None or recorder.replays


def _recorder():
    from octavo_testing.recorded_graph import GraphRecorder  # a bare machine has a GPU in its place

    return GraphRecorder()
