"""Fixtures that several parts share: the real models, and each executor in turn."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

if not Path("/dev/nvidiactl").exists():  # no card: kernels are interpreted, and Triton reads this when first imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

pytest_plugins = ["control_plane_fixtures"]
EXECUTORS = ("native", "torch")


@pytest.fixture(scope="session", params=EXECUTORS)
def executor_name(request) -> str:
    """Each executor in turn."""
    return request.param


@pytest.fixture(scope="session")
def smollm2():
    """SmolLM2-135M-Instruct as a GGUF file in Q4_1: a `real_models.RealModel`."""
    from real_models import SMOLLM2, fetch

    return fetch("smollm2", SMOLLM2)


@pytest.fixture(scope="session")
def gemma3():
    """Gemma 3 270M, the base model, as a GGUF file of mixed formats: a `real_models.RealModel`."""
    from real_models import GEMMA3, fetch

    return fetch("gemma3", GEMMA3)


@pytest.fixture(scope="session")
def smollm2_hf(smollm2) -> Path:
    """SmolLM2's same weights as a Hugging Face folder in float32."""
    from real_models import exported

    return exported(smollm2)
