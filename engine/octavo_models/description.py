"""What a family's file says of one model, and the ModelSpec that follows from it: every weight, named and sized."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from octavo_models.spec import Experts, Layer, Mlp, ModelSpec, Norm, Weight

# Axis that tensor parallelism cuts, and the module name of LoRA checkpoints, by the last part of a weight's name.
SHARD_AXIS = dict.fromkeys(("embedding", "head", "q", "k", "v", "gate", "up"), 0) | {"o": 1, "down": 1}
SHARD_AXIS |= {f"{name}_bias": 0 for name in ("q", "k", "v", "gate", "up")}
ADAPTER_TARGETS = {name: f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}


@dataclass(frozen=True, slots=True)
class Description:
    """One model as its family's file describes it, before it is known how each weight is stored.

    `names` maps the last part of a weight's name to the checkpoint's; `{i}` stands for the layer's number.
    `permuted` says that the rows of q and k lie as GGUF files of the Llama family keep them.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    layers: tuple[Layer, ...]
    final_norm: Norm
    max_position: int
    tied_head: bool
    names: Mapping[str, str]
    permuted: bool = False
    embedding_multiplier: float = 1.0
    logits_soft_cap: float | None = None
    vision_parameters: int = 0


def build(made: Description, format_of: Callable[[str, str], str], dtype: str, quantization: str | None) -> ModelSpec:
    """The spec. `format_of(weight name, source name)` tells how a tensor is stored, a key of `FORMATS`."""
    return ModelSpec(
        architecture=made.architecture,
        vocab_size=made.vocab_size,
        hidden_size=made.hidden_size,
        layers=made.layers,
        final_norm=made.final_norm,
        weights=tuple(_weights(made, format_of)),
        max_position=made.max_position,
        tied_head=made.tied_head,
        dtype=dtype,
        quantization=quantization,
        embedding_multiplier=made.embedding_multiplier,
        logits_soft_cap=made.logits_soft_cap,
        vision_parameters=made.vision_parameters,
    )


def _weights(made: Description, format_of: Callable[[str, str], str]) -> Iterator[Weight]:
    def weight(name: str, shape: tuple[int, ...], layer: int | None = None, heads: int = 0) -> Weight:
        last = name.rpartition(".")[2]
        source = made.names[last] if layer is None else made.names[last].replace("{i}", str(layer))
        return Weight(
            name,
            shape,
            (source,),
            format_of(name, source),
            transform="unpermute" if made.permuted and heads else "none",
            heads=heads,
            shard_axis=SHARD_AXIS.get(last),
            adapter_target=ADAPTER_TARGETS.get(last),
        )

    yield weight("embedding", (made.vocab_size, made.hidden_size))
    for i, layer in enumerate(made.layers):
        for last, shape, heads in _layer(layer, made.hidden_size):
            yield weight(f"layers.{i}.{last}", shape, i, heads)
    for last, shape, _ in _norm("final_norm", made.final_norm, made.hidden_size):
        yield weight(last, shape)
    if not made.tied_head:
        yield weight("head", (made.vocab_size, made.hidden_size))


Part = tuple[str, tuple[int, ...], int]  # last part of the name, shape, heads where rows may be permuted


def _layer(layer: Layer, hidden: int) -> Iterator[Part]:
    a = layer.attention
    yield from _norm("pre_attention_norm", layer.pre_attention_norm, hidden)
    for last, rows, heads in (
        ("q", a.q_size, a.num_heads),
        ("k", a.k_size, a.num_kv_heads),
        ("v", a.v_size, 0),
    ):
        yield last, (rows, hidden), heads
        if a.qkv_bias:
            yield f"{last}_bias", (rows,), heads
    yield from _norm("q_norm", a.qk_norm, a.head_dim_k)
    yield from _norm("k_norm", a.qk_norm, a.head_dim_k)
    yield "o", (hidden, a.o_size), 0
    if a.o_bias:
        yield "o_bias", (hidden,), 0
    yield from _norm("post_attention_norm", layer.post_attention_norm, hidden)
    yield from _norm("pre_mlp_norm", layer.pre_mlp_norm, hidden)
    assert not isinstance(layer.mlp, Experts), "mixtures of experts are not supported yet"
    yield from _mlp(layer.mlp, hidden)
    yield from _norm("post_mlp_norm", layer.post_mlp_norm, hidden)


def _mlp(mlp: Mlp, hidden: int) -> Iterator[Part]:
    inner = mlp.intermediate_size
    matrices = [("gate", (inner, hidden))] if mlp.gated else []
    for last, shape in (*matrices, ("up", (inner, hidden)), ("down", (hidden, inner))):
        yield last, shape, 0
        if mlp.bias:
            yield f"{last}_bias", shape[:1], 0


def _norm(last: str, norm: Norm | None, size: int) -> Iterator[Part]:
    if norm is not None:
        yield last, (size,), 0
        if norm.bias:
            yield f"{last}_bias", (size,), 0
