"""Families whose own classes transformers does not have: small random models, and what their published description computes.

The reference is a decoder in a few lines of torch that reads tensors by their published names; what differs between the
families is data. Descriptions: the authors' model descriptions and reports of InternLM 1 to 3, EXAONE 3, Baichuan 1 and
2, Qwen 1, XVERSE and MiniCPM.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn.functional import linear, normalize, scaled_dot_product_attention, silu

VOCABULARY, INNER, LAYERS, HEADS, DIM, EPS, THETA = 211, 72, 3, 6, 8, 1e-5, 500.0
HIDDEN = HEADS * DIM
LLAMA_NAMES = {
    "embedding": "model.embed_tokens",
    "layer": "model.layers.{}",
    "norm": "model.norm",
    "head": "lm_head",
    "norm1": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "norm2": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Family:
    """A config beyond the common fields, names beyond Llama's, and how the decoder differs from Llama's.

    `packed` says how the rows of q, k and v lie in one tensor: "whole" one after another, "groups" by KV heads.
    """

    config: dict[str, Any]
    names: dict[str, str] = field(default_factory=dict)
    kv_heads: int = HEADS
    packed: str | None = None
    biases: frozenset[str] = frozenset()
    alibi: bool = False
    unit_head: bool = False
    embedding_factor: float = 1.0
    residual_factor: float = 1.0
    logits_factor: float = 1.0
    tied: bool = False
    vocabulary: int = VOCABULARY

    def name(self, part: str, layer: int | None = None) -> str:
        names = LLAMA_NAMES | self.names
        return names[part] if layer is None else f"{names['layer'].format(layer)}.{names[part]}"


FAMILIES = {
    "internlm": Family({"architectures": ["InternLMForCausalLM"], "bias": True}, biases=frozenset("qkvo")),
    "internlm 2": Family(
        {"architectures": ["InternLM2ForCausalLM"], "bias": False, "num_key_value_heads": 2},
        {
            "embedding": "model.tok_embeddings",
            "head": "output",
            "norm1": "attention_norm",
            "qkv": "attention.wqkv",
            "o": "attention.wo",
            "norm2": "ffn_norm",
            "gate": "feed_forward.w1",
            "up": "feed_forward.w3",
            "down": "feed_forward.w2",
        },
        kv_heads=2,
        packed="groups",
    ),
    "internlm 3": Family(
        {"architectures": ["InternLM3ForCausalLM"], "bias": True, "qkv_bias": True, "num_key_value_heads": 2},
        kv_heads=2,
        biases=frozenset({"q", "k", "v", "o", "gate", "up", "down"}),
    ),
    "exaone 3 as published": Family(
        {"architectures": ["ExaoneForCausalLM"], "num_layers": LAYERS, "layer_norm_epsilon": EPS},
        {
            "embedding": "transformer.wte",
            "layer": "transformer.h.{}",
            "norm": "transformer.ln_f",
            "norm1": "ln_1",
            "q": "attn.attention.q_proj",
            "k": "attn.attention.k_proj",
            "v": "attn.attention.v_proj",
            "o": "attn.attention.out_proj",
            "norm2": "ln_2",
            "gate": "mlp.c_fc_0",
            "up": "mlp.c_fc_1",
            "down": "mlp.c_proj",
        },
    ),
    "baichuan 7b": Family({"architectures": ["BaiChuanForCausalLM"]}, {"qkv": "self_attn.W_pack"}, packed="whole"),
    "baichuan 2 13b": Family(
        {"architectures": ["BaichuanForCausalLM"], "vocab_size": 125_696, "model_max_length": 256},
        {"qkv": "self_attn.W_pack"},
        packed="whole",
        alibi=True,
        unit_head=True,
        vocabulary=125_696,
    ),
    "qwen 1": Family(
        {
            "architectures": ["QWenLMHeadModel"],
            "intermediate_size": 2 * INNER,
            "kv_channels": DIM,
            "layer_norm_epsilon": EPS,
            "rotary_emb_base": THETA,
            "rotary_pct": 1.0,
            "seq_length": 256,
        },
        {
            "embedding": "transformer.wte",
            "layer": "transformer.h.{}",
            "norm": "transformer.ln_f",
            "norm1": "ln_1",
            "qkv": "attn.c_attn",
            "o": "attn.c_proj",
            "norm2": "ln_2",
            "up": "mlp.w1",
            "gate": "mlp.w2",
            "down": "mlp.c_proj",
        },
        packed="whole",
        biases=frozenset({"qkv"}),
    ),
    "xverse": Family({"architectures": ["XverseForCausalLM"]}),
    "minicpm": Family(
        {"architectures": ["MiniCPMForCausalLM"], "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 16},
        embedding_factor=12.0,
        residual_factor=1.4 / math.sqrt(LAYERS),
        logits_factor=16 / HIDDEN,
        tied=True,
    ),
}


def save(family: Family, tensors: Tensors, folder: Path) -> None:
    """Write config and tensors as their authors publish them."""
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config_of(family)))


def random_tensors(family: Family) -> Tensors:
    """The checkpoint's tensors in float32, norms and biases random too."""
    generator = torch.Generator().manual_seed(5)
    kv = family.kv_heads * DIM
    shapes = {"q": (HIDDEN, HIDDEN), "k": (kv, HIDDEN), "v": (kv, HIDDEN)}
    if family.packed:
        shapes = {"qkv": (HIDDEN + 2 * kv, HIDDEN)}
    shapes |= {"o": (HIDDEN, HIDDEN), "gate": (INNER, HIDDEN), "up": (INNER, HIDDEN), "down": (HIDDEN, INNER)}
    tensors: Tensors = {}

    def add(name: str, *shape: int, mean: float = 0.0) -> None:
        tensors[name] = torch.randn(shape, generator=generator) * 0.3 + mean

    add(f"{family.name('embedding')}.weight", family.vocabulary, HIDDEN)
    add(f"{family.name('norm')}.weight", HIDDEN, mean=1.0)
    if not family.tied:
        add(f"{family.name('head')}.weight", family.vocabulary, HIDDEN)
    for i in range(LAYERS):
        for part, shape in shapes.items():
            add(f"{family.name(part, i)}.weight", *shape)
            if part in family.biases:
                add(f"{family.name(part, i)}.bias", shape[0])
        for part in ("norm1", "norm2"):
            add(f"{family.name(part, i)}.weight", HIDDEN, mean=1.0)
    return tensors


def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS)).to(x.dtype) * weight


def rotated(x: torch.Tensor) -> torch.Tensor:
    """x: [heads, tokens, DIM]; pairs are (i, i + DIM/2)."""
    angles = torch.arange(x.shape[1])[:, None] * THETA ** (-torch.arange(0, DIM, 2) / DIM)
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def slopes() -> torch.Tensor:
    """ALiBi's slopes for 6 heads: those of 4, then each second one of 8."""
    return torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3])


def reference(family: Family, tensors: Tensors) -> Callable[[list[int]], torch.Tensor]:
    """Return what computes logits [num_tokens, vocabulary] from token ids, in the dtype of `tensors`."""

    def product(part: str, layer: int, x: torch.Tensor) -> torch.Tensor:
        name = family.name(part, layer)
        return linear(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))

    def heads_of(x: torch.Tensor) -> torch.Tensor:  # [tokens, heads * DIM] → [heads, tokens, DIM]
        return x.reshape(len(x), -1, DIM).transpose(0, 1)

    def qkv(layer: int, x: torch.Tensor) -> list[torch.Tensor]:
        if family.packed is None:
            return [heads_of(product(part, layer, x)) for part in "qkv"]
        rows = product("qkv", layer, x)
        if family.packed == "whole":
            kv = family.kv_heads * DIM
            return [heads_of(part) for part in rows.split([HIDDEN, kv, kv], dim=-1)]
        groups = rows.reshape(len(x), family.kv_heads, -1, DIM)  # of each KV head: its queries, k, v
        return [heads_of(part.reshape(len(x), -1)) for part in (groups[:, :, :-2], groups[:, :, -2], groups[:, :, -1])]

    def attention(layer: int, x: torch.Tensor) -> torch.Tensor:
        q, k, v = qkv(layer, x)
        positions = torch.arange(len(x))
        mask = torch.where(positions[:, None] >= positions, 0.0, -torch.inf).expand(HEADS, -1, -1)
        if family.alibi:
            mask = mask + slopes()[:, None, None] * (positions - positions[:, None])
        else:
            q, k = rotated(q), rotated(k)
        k, v = (part.repeat_interleave(HEADS // family.kv_heads, dim=0) for part in (k, v))
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype))
        return product("o", layer, out.transpose(0, 1).reshape(len(x), -1))

    def logits(ids: list[int]) -> torch.Tensor:
        embedding = tensors[f"{family.name('embedding')}.weight"]
        x = embedding[torch.tensor(ids)] * family.embedding_factor
        for i in range(LAYERS):
            h = rms_norm(x, tensors[f"{family.name('norm1', i)}.weight"])
            x = x + family.residual_factor * attention(i, h)
            h = rms_norm(x, tensors[f"{family.name('norm2', i)}.weight"])
            x = x + family.residual_factor * product("down", i, silu(product("gate", i, h)) * product("up", i, h))
        head = embedding if family.tied else tensors[f"{family.name('head')}.weight"]
        if family.unit_head:
            head = normalize(head)
        return family.logits_factor * linear(rms_norm(x, tensors[f"{family.name('norm')}.weight"]), head)

    return logits


def config_of(family: Family) -> dict[str, Any]:
    """The model's config.json."""
    common = {
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "max_position_embeddings": 256,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "rms_norm_eps": EPS,
        "rope_theta": THETA,
        "tie_word_embeddings": family.tied,
        "torch_dtype": "float32",
        "vocab_size": VOCABULARY,
    }
    return common | family.config
