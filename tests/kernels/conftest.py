"""Runs the kernels' tests on a GPU if there is one, else in Triton's interpreter.

Needs torch, triton and pytest alone, so that `make test-gpu` runs on a bare machine with a GPU.
"""

from __future__ import annotations

import os

import pytest
import torch

if not torch.cuda.is_available():
    torch.set_num_threads(1)  # tensors are small, and threads that wait take the interpreter's time
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined, Triton's own at its import

from octavo_engine.kernels.triton.interpreter import correct_interpreter
from octavo_engine.kernels.triton.operations import TritonOperations

correct_interpreter()


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def triton_operations(device) -> TritonOperations:
    return TritonOperations.on(device)


@pytest.fixture(autouse=True)
def _seeded_and_poisoned():
    """The same numbers in every run; and what torch.empty gives is NaN, so that a row left unwritten can't pass."""
    torch.manual_seed(5)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
