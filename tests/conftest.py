"""Fixtures that several parts share: the real models, and each executor in turn."""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path

import pytest

if not Path("/dev/nvidiactl").exists():  # no GPU: kernels are interpreted, and Triton reads this when first imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Many images forbid Python to keep what it has compiled: each of hundreds of processes would compile the same again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell that ignores these (`nohup`, some CI runners) would hand that on to every process that a test sends them to.
for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, default)

pytest_plugins = [
    "octavo_testing.control_plane_fixtures",
    "octavo_testing.run_order",
    "octavo_testing.run_policy",
    "octavo_testing.sampled_cases",
]
EXECUTORS = ("native", "torch")


gc.disable()  # until all is collected, most of which stays: to look through it again and again takes seconds a worker


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", params=EXECUTORS)
def executor_name(request) -> str:
    """Each executor in turn."""
    return request.param


@pytest.fixture(scope="session")
def smollm2():
    """SmolLM2-135M-Instruct as a GGUF file in Q4_1: a `real_models.RealModel`."""
    from octavo_testing.real_models import SMOLLM2, fetch

    return fetch("smollm2", SMOLLM2)


@pytest.fixture(scope="session")
def gemma3():
    """Gemma 3 270M, the base model, as a GGUF file of mixed formats: a `real_models.RealModel`."""
    from octavo_testing.real_models import GEMMA3, fetch

    return fetch("gemma3", GEMMA3)


@pytest.fixture(scope="session")
def qwen_coder():
    """Qwen2.5-Coder-1.5B-Instruct as a GGUF file in Q4_K_M, 1.1 GB: a `real_models.RealModel`."""
    from octavo_testing.real_models import QWEN_CODER, fetch

    return fetch("qwen-coder", QWEN_CODER)


@pytest.fixture(scope="session")
def qwen_coder_small():
    """Qwen2.5-Coder-0.5B-Instruct as a GGUF file in Q4_K_M, 0.5 GB, whose template calls tools: a `RealModel`."""
    from octavo_testing.real_models import QWEN_CODER_SMALL, fetch

    return fetch("qwen-coder-small", QWEN_CODER_SMALL)


@pytest.fixture(scope="session")
def smollm2_hf(smollm2) -> Path:
    """SmolLM2's same weights as a Hugging Face folder in float32."""
    from octavo_testing.real_models import exported

    return exported(smollm2)
