"""Does it fit: the plan beside what vLLM and the engine find, case by case, each with the error that is accepted.

`kv` is in GiB a GPU and `error` too. Figures of vLLM's are from knowledge of its memory profiler, not measured; cases
without a figure have the verdict alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from octavo_testing.planner_cases import LLAMA, LLAMA_70B, MISTRAL_7B, SMALL, planned

from octavo_operator.planner.sizes import GIB

L4, T4, A10G, L40S = "NVIDIA-L4", "Tesla-T4", "NVIDIA-A10G", "NVIDIA-L40S"
A100_40, A100_80 = "NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-SXM4-80GB"
H100, H200 = "NVIDIA-H100-80GB-HBM3", "NVIDIA-H200"

LLAMA3_8B = LLAMA | {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
LLAMA31_8B = LLAMA3_8B | {"max_position_embeddings": 131072}
QWEN3_32B = LLAMA | {
    "architectures": ["Qwen3ForCausalLM"],
    "head_dim": 128,
    "hidden_size": 5120,
    "intermediate_size": 25600,
    "max_position_embeddings": 40960,
    "num_attention_heads": 64,
    "num_hidden_layers": 64,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "torch_dtype": "bfloat16",
    "vocab_size": 151936,
}
GEMMA3_27B = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "torch_dtype": "bfloat16",
    "text_config": {
        "head_dim": 128,
        "hidden_size": 5376,
        "intermediate_size": 21504,
        "max_position_embeddings": 131072,
        "num_attention_heads": 32,
        "num_hidden_layers": 62,
        "num_key_value_heads": 16,
        "query_pre_attn_scalar": 168,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
        "vocab_size": 262208,
    },
    "vision_config": {
        "hidden_size": 1152,
        "image_size": 896,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "patch_size": 14,
    },
}


@dataclass(frozen=True)
class Case:
    name: str
    config: dict[str, Any] | None
    product: str
    engine: dict[str, Any] = field(default_factory=dict)
    gib: float | None = None  # of the files, where only their size is known
    state: str = "True"
    kv: float | None = None
    error: float = 0.3
    sequences: tuple[int, int] | None = None
    remedy: str | None = None


V = {"runtime": "vllm"}
FLOAT32 = LLAMA3_8B | {"torch_dtype": "float32"}
SLICE = "NVIDIA-H200-MIG-1g.18gb"
CASES = (
    # PLANNER_CHECK's table: what vLLM finds.
    Case("8B on L4", LLAMA3_8B, L4, V, kv=3.6, sequences=(3, 3)),
    Case("8B on A100-40", LLAMA3_8B, A100_40, V, kv=19.2, sequences=(18, 19)),
    Case("8B on A100-80", LLAMA3_8B, A100_80, V, kv=54.9, sequences=(54, 55)),
    Case("8B on H100", LLAMA3_8B, H100, V, kv=54.8, sequences=(54, 54)),
    Case("70B TP2 A100-80", LLAMA_70B, A100_80, V | {"tensorParallelSize": 2}, kv=5.2, error=0.6, sequences=(6, 8)),
    Case("70B TP4 A100-40", LLAMA_70B, A100_40, V | {"tensorParallelSize": 4}, kv=1.8, error=0.6, sequences=(3, 6)),
    Case("70B TP8 L4", LLAMA_70B, L4, V | {"tensorParallelSize": 8}, kv=2.6, error=0.6, sequences=(9, 16)),
    Case(
        "70B TP4, 8 at once",
        LLAMA_70B,
        A100_40,
        V | {"tensorParallelSize": 4, "minConcurrency": 8, "maxModelLen": 4096},
        state="False",
    ),
    Case("Gemma 27B TP2 A100-40", GEMMA3_27B, A100_40, V | {"tensorParallelSize": 2}, kv=7.1, error=0.6),
    Case("Mixtral", None, A100_80, V | {"tensorParallelSize": 2}, gib=87, state="Unknown"),
    Case("Mixtral on one", None, A100_80, V, gib=87, state="False", remedy="set engine.tensorParallelSize: 2 or more"),
    Case("Qwen3-30B-A3B", None, A100_80, V, gib=57, state="Unknown"),
    Case("DeepSeek-V3 on H100", None, H100, V | {"tensorParallelSize": 8}, gib=641, state="False"),
    Case("DeepSeek-V3 on H200", None, H200, V | {"tensorParallelSize": 8}, gib=641, state="Unknown"),
    Case("phi-2", None, L4, {}, gib=5.2, state="Unknown"),
    Case("7B AWQ on T4", None, T4, V, gib=3.9, state="Unknown"),
    Case("8B 131k on L4", LLAMA31_8B, L4, V | {"maxModelLen": 131072}, state="False"),
    Case("7B 32k on T4", MISTRAL_7B, T4, V | {"maxModelLen": 32768}, state="False"),
    Case("32B 40k on A100-80", QWEN3_32B, A100_80, V | {"maxModelLen": 40960}, state="False"),
    # Ten more.
    Case("octavo deducts graphs", LLAMA3_8B, L4, kv=3.3, sequences=(2, 3)),
    Case("octavo, eager", LLAMA3_8B, L4, {"enforceEager": True}, kv=3.6, sequences=(3, 3)),
    Case("32B, length left open", QWEN3_32B, A100_80, V, kv=8.2, sequences=(0, 1)),
    Case("float32 under vLLM", FLOAT32, A100_40, V, kv=19.2),
    Case("float32 under octavo", FLOAT32, A10G, sequences=(2, 3)),
    Case("fp8 on the fly", LLAMA3_8B, L4, V | {"quantization": "fp8"}, kv=10.1),
    Case(
        "8B on a slice of 16 GiB",
        LLAMA3_8B,
        SLICE,
        V,
        state="False",
        remedy="use GPUs of 20 GiB or more, or a quantized model",
    ),
    Case("long tables", LLAMA31_8B, A100_80, {"maxModelLen": 131072, "maxNumSeqs": 1024}, kv=53.5),
    Case("small on a T4 under vLLM", SMALL, T4, V, kv=12.2),
    Case("small on a T4 under octavo", SMALL, T4, state="False"),
)


def plan_of(case: Case):
    observed = {} if case.gib is None else {"model_bytes": int(case.gib * GIB), "why_unknown": "no block describes it"}
    return planned(case.config, observed, accelerator={"products": [case.product]}, engine=case.engine)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_verdict_is_as_good_as_it_says(case):
    fit = plan_of(case).fit
    assert fit.state == case.state, fit.message
    if case.kv is not None:
        assert fit.budget.kv / GIB == pytest.approx(case.kv, abs=case.error)
    if case.sequences is not None:
        assert fit.budget.sequences_within_error == case.sequences
    if case.remedy is not None:
        assert fit.remedy == case.remedy


def test_a_verdict_prints_its_error():
    assert plan_of(CASES[0]).fit.message == "3 sequences of 8192 tokens at once (memory ± 0.3 GiB)"
    assert plan_of(CASES[4]).fit.message == "7 sequences of 4096 tokens at once (6 to 8, memory ± 0.6 GiB)"


def test_what_the_error_could_turn_around_is_not_refused():
    """29,696 tokens take 3.6 GiB, of about 3.5."""
    plan = planned(LLAMA31_8B, accelerator={"products": [L4]}, engine=V | {"maxModelLen": 29696})
    assert (plan.fit.state, plan.fit.reason) == ("Unknown", "Borderline"), plan.fit.message
    assert "within the estimate's ± 0.3 GiB" in plan.fit.message
    assert plan.refusal is None


def test_a_length_left_open_is_as_long_as_fits_and_says_so():
    plan = planned(QWEN3_32B, accelerator={"products": [A100_80]}, engine=V)
    assert plan.limits.max_model_len == 32768
    assert "--max-model-len 32768" in " ".join(plan.engine.arguments)
    assert "maxModelLen 32768: what the memory holds; the model's own is 40960" in plan.reasons
    whole = planned(LLAMA3_8B, accelerator={"products": [A100_80]}, engine=V)
    assert "--max-model-len" not in whole.engine.arguments


def test_a_vision_tower_is_counted_where_it_is_served():
    both = {
        runtime: planned(GEMMA3_27B, accelerator={"products": [A100_80]}, engine={"runtime": runtime})
        for runtime in ("octavo", "vllm")
    }
    more = both["vllm"].fit.budget.weights - both["octavo"].fit.budget.weights
    tower = 417_000_000 * 2  # SigLIP So400m's 0.4 billion parameters and the projector
    assert more == pytest.approx(tower + GIB, rel=0.02)


def test_a_vision_half_of_unknown_size_is_said_to_be_uncounted():
    pixtral = {
        "architectures": ["LlavaForConditionalGeneration"],
        "text_config": {"model_type": "mistral", "hidden_size": 5120, "num_hidden_layers": 40, "vocab_size": 131072},
        "torch_dtype": "bfloat16",
        "vision_config": {"model_type": "pixtral"},
    }

    def uncounted(runtime):
        plan = planned(pixtral, accelerator={"products": [A100_80]}, engine={"runtime": runtime})
        return any("vision half is not known from its config" in warning for warning in plan.warnings)

    assert (uncounted("vllm"), uncounted("octavo")) == (True, False)


def test_a_size_alone_bounds_the_verdict_the_claim_and_the_start():
    known = {"model_bytes": int(87 * GIB), "why_unknown": "no block describes it"}
    plan = planned(None, known, accelerator={"products": [A100_80]}, engine=V | {"tensorParallelSize": 2}, cache={})
    assert plan.fit.message.startswith("the weights take 43.5 GiB of each GPU and leave 27.3 GiB for the KV cache")
    assert plan.cache.size == "190Gi"
    assert plan.lifecycle.expected == 1240  # five minutes, and 87 GiB at 100 MB/s
    downloading = planned(None, known, accelerator={"products": [A100_80]}, engine=V | {"tensorParallelSize": 2})
    assert downloading.lifecycle.expected == 3110  # and at 50 MB/s
    assert downloading.resources.requests["ephemeral-storage"] == "96Gi"
    assert any("each new pod downloads 87.0 GiB again" in warning for warning in downloading.warnings)


def test_files_larger_than_a_cpus_memory_are_refused():
    known = {"model_bytes": 40 * GIB}
    plan = planned(None, known, accelerator={"vendor": "cpu"}, resources={"limits": {"memory": "32Gi"}})
    assert plan.refusal.message == "the model's files, 40.0 GiB, are more than the container's memory, 32.0 GiB"
