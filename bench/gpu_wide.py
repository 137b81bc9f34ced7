"""Two layers of a real model's width on a GPU, in bfloat16 and of packed blocks, before anything is timed.

The small models of `bench/whole_engine.py` have tokens to compare; a tile that is wrong only at a width of thousands
shows here. Random weights draw no token for certain, so log-probabilities are compared: the GPU's may differ from the
plain operations' in float32 by no more than twice as much as the plain operations' in bfloat16 do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from bench.whole_engine import engine, request

from octavo_engine.config import CacheConfig, SchedulerConfig
from octavo_engine.engine.engine_core import EngineCore
from octavo_engine.executors.torch.model_configs import LLAMA_3_8B
from octavo_engine.kernels.operations import Operations
from octavo_engine.kernels.reference_operations import ReferenceOperations
from octavo_models import from_hf_config
from octavo_models.spec import ModelSpec

PACKED = "q4_k"  # the format of most files
WIDE = LLAMA_3_8B | {"num_hidden_layers": 2, "vocab_size": 4096}
PROMPT, OUTPUT, STEP_TOKENS = 300, 8, 128  # the prompt is cut into several steps
CPU = torch.device("cpu")


def wide(device: torch.device, config: Mapping[str, Any] = WIDE, operations: Operations | None = None) -> Iterator[str]:
    """Compare the log-probabilities of a prompt and of what follows it; a line for each kind of weights.

    `operations`: of the device's engine, where they are not the device's own.

    Raises:
        SystemExit: they differ by more than bfloat16 explains.
    """
    plain = from_hf_config(dict(config))
    for kind, spec in (("bfloat16", plain), (PACKED, of_blocks(plain))):
        exact, rounded = (_scores(spec, CPU, ReferenceOperations(), dtype) for dtype in ("float32", "bfloat16"))
        found = _scores(spec, device, operations, "auto")
        distance, allowed = _distance(found, exact), 2 * _distance(rounded, exact)
        line = (
            f"two layers of width {spec.hidden_size}, {kind}: {len(found)} log-probabilities differ by {distance:.2g}"
        )
        if not distance <= allowed:
            raise SystemExit(f"{line} on average, and may by {allowed:.2g}")
        yield f"{line} on average, and may by {allowed:.2g}"


def of_blocks(spec: ModelSpec) -> ModelSpec:
    """The model as a file would hold it whose matrices are blocks of PACKED."""
    weights = (replace(w, format=PACKED) for w in spec.weights)
    kept = [block if block.stays_packed(block.shape) else w for block, w in zip(weights, spec.weights, strict=True)]
    return replace(spec, weights=tuple(kept), quantization="gguf")


def _scores(spec: ModelSpec, device: torch.device, operations: Operations | None, dtype: str) -> list[float]:
    """Log-probabilities of a prompt's tokens, and of the one that is drawn again and again after it, the only one allowed."""
    core: EngineCore = engine(
        spec,
        None,
        device,
        dtype=dtype,
        max_model_len=PROMPT + OUTPUT,
        operations=operations,
        cache=CacheConfig(kv_cache_memory_bytes=64 << 20),
        scheduler=SchedulerConfig(max_num_batched_tokens=STEP_TOKENS, max_num_seqs=4),
    )
    prompt = [(31 * i + i * i) % spec.vocab_size for i in range(PROMPT)]
    core.add(request("wide", prompt, OUTPUT, prompt_logprobs=0, logprobs=0, allowed_token_ids=(7,)))
    scores: list[float] = []
    while core.has_work:
        for output in core.step():
            assert output.error is None, output.error
            scores += [entry.logprob for entry in output.prompt_logprobs or () if entry is not None]
            scores += [entry.logprob for entry in output.logprobs or ()]
    core.close()
    assert len(scores) == PROMPT - 1 + OUTPUT
    return scores


def _distance(scores: list[float], exact: list[float]) -> float:
    return sum(abs(a - b) for a, b in zip(scores, exact, strict=True)) / len(exact)
