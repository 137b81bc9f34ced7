"""The causal language models of the installed transformers that run over paged blocks: each one tried, small and
random.

A model of a kind is made from its own configuration class with few and odd sizes, outlined, and compared with itself
over its own attention, as the executor does at a start.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from octavo_engine.errors import ExecutorError
from octavo_engine.executors.torch.transformers_check import check
from octavo_engine.executors.torch.transformers_config import check_config
from octavo_engine.executors.torch.transformers_decoder import NAME, TransformersDecoder, register
from octavo_engine.executors.torch.transformers_model import new_model
from octavo_engine.executors.torch.transformers_outline import outline_of
from octavo_engine.kernels.reference_operations import ReferenceOperations
from octavo_models.architectures import BY_HF_CLASS
from octavo_models.errors import UnsupportedModelError
from octavo_testing.tiny_models import SIZES, randomize

MODEL_TYPES: dict[str, str] = dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
"""model_type → class."""
LAYERS = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
FURTHER: dict[str, Any] = {
    "sliding_window": 8,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "is_decoder": True,
    "vocab_size_per_layer_input": 211,
    "hidden_size_per_layer_input": 16,
    "num_kv_shared_layers": 0,
}
OWN: dict[str, dict[str, Any]] = {
    "codegen": {"n_embd": 64, "n_head": 4, "n_layer": 4, "rotary_dim": 8},
    "cohere2": {"layer_types": LAYERS},
    "deepseek_v2": {"topk_method": "greedy"},
    "dots1": {"n_shared_experts": 1},
    "helium": {"head_dim": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 8},
    "gptj": {"n_embd": 64, "n_head": 4, "n_layer": 4, "rotary_dim": 8},
}
"""The fields that a kind needs beside."""
MOST_PARAMETERS = 100_000_000  # image towers keep their sizes


def small_config(model_type: str) -> PreTrainedConfig:
    """The kind's configuration class with the sizes above, those that it has."""
    return _small(CONFIG_MAPPING[model_type], OWN.get(model_type, {}))


def _small(kind: type[PreTrainedConfig], own: dict[str, Any]) -> PreTrainedConfig:
    known = {field.name for field in dataclasses.fields(kind)} | set(kind.attribute_map)
    sizes = {name: value for name, value in (SIZES | {"num_hidden_layers": 4} | FURTHER).items() if name in known}
    if "kv_lora_rank" in known:
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]  # they are expanded to one for each
    parts = {name: _small(part, {}) for name, part in kind.sub_configs.items() if hasattr(part, "sub_configs")}
    return kind(**parts | sizes | own)


def verdict(model_type: str) -> str | None:
    """The reason why a model of the kind does not run; None: it computes what transformers computes."""
    torch.manual_seed(5)
    register()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            config = small_config(model_type)
            check_config(config)
            outline = outline_of(config, 256, "float32")
            with torch.device("meta"):
                size = sum(p.numel() for p in new_model(config, NAME, torch.float32).parameters())
            if size > MOST_PARAMETERS:
                return f"not tried: the small one has {size:,} parameters"
            model = new_model(config, NAME, torch.float32)
            randomize(model)
            decoder = TransformersDecoder(outline, model, ReferenceOperations(), torch.float32)
            check(decoder, outline, outline.kv_layout(16, "f32"), "f32", torch.float32, torch.device("cpu"))
        except (UnsupportedModelError, ExecutorError) as error:
            return str(error).partition(";")[0]
        except (ValueError, RuntimeError, StrictDataclassClassValidationError) as error:
            return f"not tried, for the sizes that are tried do not suit it: {error}"
    return None


def page() -> str:
    """Every kind and its verdict, in Markdown, for the reference."""
    verdicts = {kind: verdict(kind) for kind in MODEL_TYPES}
    described = {kind for kind, name in MODEL_TYPES.items() if name in BY_HF_CLASS}
    through = {kind for kind, why in verdicts.items() if why is None}
    count = (
        f"The {len(MODEL_TYPES)} kinds of causal language models in transformers {transformers.__version__}, each "
        "tried small and with random weights: over paged blocks beside another request, against its own attention. "
        f"{len(through)} run with `--model-impl transformers` on the torch executor; with the {len(described)} whose "
        f"architecture Octavo describes itself, {len(through | described)} run. A model that is not described runs so by "
        "default (`--model-impl auto`), where torch and transformers are installed.\n"
    )
    lines = [
        "<!-- Generated by OCTAVO_UPDATE_GOLDEN=1 pytest tests/correctness/test_transformers_survey.py. -->\n",
        "# Models through transformers\n",
        count,
        "| model_type | class | described | through transformers |",
        "|-|-|-|-|",
    ]
    for kind, name in MODEL_TYPES.items():
        why = verdicts[kind]
        # Names and commands in a library's messages are not ours.
        shown = "yes" if why is None else "no: " + " ".join(why.split()).replace("|", "\\|").replace("`", '"')
        lines.append(f"| {kind} | {name} | {'yes' if kind in described else ''} | {shown} |")
    return "\n".join(lines) + "\n"
