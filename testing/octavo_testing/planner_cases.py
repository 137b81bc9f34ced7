"""Services and models that the planner's tests share."""

from __future__ import annotations

from typing import Any

from octavo_models import ModelSpec, from_hf_config
from octavo_operator.api.manifest import parse
from octavo_operator.api.observed import Observed
from octavo_operator.api.v1alpha1 import API_VERSION, KIND, LLMService
from octavo_operator.planner import Plan, plan
from octavo_operator.settings import Settings

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "vocab_size": 32000,
}
LLAMA_70B = LLAMA | {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "max_position_embeddings": 4096,
    "num_attention_heads": 64,
    "num_hidden_layers": 80,
    "num_key_value_heads": 8,
}
MISTRAL_7B = LLAMA | {
    "architectures": ["MistralForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
}
SMALL = LLAMA | {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "vocab_size": 49152,
}

A100_40 = "NVIDIA-A100-SXM4-40GB"
CPU = {"vendor": "cpu"}


def described(config: dict[str, Any]) -> ModelSpec:
    return from_hf_config(config)


def service(annotations: dict[str, str] | None = None, **spec: Any) -> LLMService:
    """An LLMService with this spec; keyword arguments are its fields as YAML spells them."""
    spec.setdefault("model", {"uri": "hf://org/name"})
    metadata = {"name": "svc", "annotations": annotations or {}}
    return parse({"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec})


def planned(config: dict[str, Any] | None = None, observed: dict[str, Any] | None = None, /, **spec: Any) -> Plan:
    """The plan of such a service, with the model known by its config, or unknown."""
    known = None if config is None else described(config)
    annotations = spec.pop("annotations", None)
    return plan(service(annotations, **spec), Observed(known, **(observed or {})), Settings())


def claim(
    name: str = "svc-cache", *, size: str = "100Gi", mode: str = "ReadWriteOnce", phase: str = "Bound", uid: str = "c"
) -> dict[str, Any]:
    """A claim as the API server has it."""
    made = {"name": name, "namespace": "default", "uid": uid, "creationTimestamp": "2026-01-01T00:00:00Z"}
    spec = {"accessModes": [mode], "resources": {"requests": {"storage": size}}}
    kind = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
    return {**kind, "metadata": made, "spec": spec, "status": {"phase": phase}}


def on_a100(tensor_parallel: int = 1, **engine: Any) -> dict[str, Any]:
    return {
        "accelerator": {"products": [A100_40]},
        "engine": {"tensorParallelSize": tensor_parallel, "maxModelLen": 4096} | engine,
    }
