"""`make bench-gpu` as far as a machine without a GPU can show: it measures, and it needs nothing but torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bench import gpu, gpu_wide
from bench.gpu_kernels import Shape, table
from bench.gpu_limits import Limits, measure_limits
from bench.gpu_wide import WIDE
from bench.whole_engine import SMALL

from octavo_engine.kernels.reference_operations import ReferenceOperations
from octavo_models import from_hf_config

ROOT = Path(__file__).parent.parent.parent
CPU = torch.device("cpu")
LIMITS = Limits("paper", 1e10, 1e12)

# Stands before the interpreter's own finders, and has neither msgspec nor anything that serves.
BARE = """
import sys

class Missing:
    names = {"msgspec", "aiohttp", "pydantic", "zmq", "tokenizers", "transformers", "safetensors", "gguf",
             "huggingface_hub", "prometheus_client", "uvloop", "kopf", "kubernetes", "pytest", "llguidance"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "msgspec" else found(name, *rest)
from bench import gpu
from bench.whole_engine import expected
assert sys.modules["msgspec"].Struct.__module__ == "bench.bare_msgspec"
print({name: len(tokens) for name, tokens in expected("llama", 3).items()})
assert not any(name.startswith(("octavo_engine.server", "octavo_engine.text")) for name in sys.modules)
sys.exit(gpu.main())
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_bare_machine_runs_the_engine_and_says_that_it_has_no_gpu():
    """Structs are dataclasses there. In one sentence, and not as if all were well."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"PYTHONPATH": "engine"}
    ended = subprocess.run(
        [sys.executable, "-c", BARE], check=False, capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert ended.returncode == 1, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0] == "{'0': 3, '1': 4, '2': 5, '3': 6, '4': 7}"
    assert lines[1:] == ["this machine has no GPU that torch can use: torch.cuda.is_available() is false"]


def test_what_is_checked_first_fails_on_a_wrong_token(monkeypatch):
    assert len(list(gpu.check(CPU, 3))) == 2 * len(SMALL)
    monkeypatch.setattr(gpu, "expected", lambda kind, n: {"0": [1] * n})
    with pytest.raises(SystemExit, match="llama without graphs: request 0 got"):
        list(gpu.check(CPU, 3))


def test_a_real_width_is_checked_in_bfloat16_and_packed():
    """Here with the plain operations in the GPU's place, and smaller. What rotates a little wrong is found."""
    config = WIDE | {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2}

    class Packed(ReferenceOperations):
        prefers_packed = True

    class Wrong(Packed):
        def matmul(self, x, weight, *rest, **options):
            y = super().matmul(x, weight, *rest, **options)
            y[:, 128:192] *= 1.1  # a tile
            return y

    assert [line.partition(": ")[0] for line in gpu_wide.wide(CPU, config, Packed())] == [
        "two layers of width 256, bfloat16",
        "two layers of width 256, q4_k",
    ]
    with pytest.raises(SystemExit, match="two layers of width 256, bfloat16: 307 log-probabilities differ by"):
        list(gpu_wide.wide(CPU, config, Wrong()))


def test_rates_are_of_tokens_and_seconds(monkeypatch):
    """Every row of a small model's table; no rate beyond what the limits allow would be believed."""
    for name, value in {
        "IN_FLIGHT": (1, 3),
        "PROMPT": 20,
        "OUTPUT": 6,
        "PREFILL": 24,
        "NUM_PREFILLS": 2,
        "STEP_TOKENS": 64,
    }.items():
        monkeypatch.setattr(gpu, name, value)
    spec = from_hf_config(SMALL["gemma 3"] | {"torch_dtype": "bfloat16"})
    rows = [line.strip("| ").split(" | ") for line in gpu.measure("small", spec, CPU, LIMITS)]
    assert [row[1] for row in rows] == [
        "KV blocks",
        "output, 1 in flight",
        "output, 3 in flight",
        "prefill, prompts of 24",
    ]
    assert all(float(row[2].split()[0].replace(",", "")) > 0 for row in rows[1:])


def test_the_bound_is_what_must_be_read_or_multiplied():
    spec = from_hf_config(gpu.MODELS["Llama-3-8B"])
    gpu_limits = Limits("paper", 2e12, 1e15)
    decode, prefill = gpu.bounds(spec, gpu_limits, 1, 0)
    assert decode == pytest.approx(2e12 / (2 * spec.num_parameters), rel=1e-6)
    assert prefill == pytest.approx(1e15 / (2 * spec.num_parameters))
    assert gpu.bounds(spec, gpu_limits, 256, 1000)[0] < 256 * decode


def test_every_operation_of_a_layer_has_its_row():
    spec = from_hf_config(SMALL["gemma 3"] | {"torch_dtype": "bfloat16"})
    shapes = [Shape("decodes", 2, 20, 1), Shape("prefills", 1, 18, 18)]
    rows = list(table(ReferenceOperations(), spec, shapes, torch.bfloat16, CPU, LIMITS))
    assert len(rows) == 2 + 2 * 13
    assert rows[2].startswith("| add, norm | decodes |")


def test_limits_are_measured():
    limits = measure_limits(CPU, copy_bytes=1 << 22, side=64)
    assert limits.bandwidth > 1e6
    assert limits.flops > 1e6
    assert limits.share(limits.bandwidth, 0, 2.0) == pytest.approx(0.5)
