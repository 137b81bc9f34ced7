"""A ModelSpec before it is known how its weights are stored, and its completion: every weight named, sized and located."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from octavo_models.spec import Experts, Layer, Mlp, ModelSpec, Norm, Weight
from octavo_models.tensors import TensorMap, Unpermute

# Axis that tensor parallelism cuts, and the module name of LoRA checkpoints, by the last part of a weight's name.
SHARD_AXIS = dict.fromkeys(("embedding", "head", "q", "k", "v", "gate", "up"), 0) | {"o": 1, "down": 1}
SHARD_AXIS |= {f"{name}_bias": 0 for name in ("q", "k", "v", "gate", "up")}
ADAPTER_TARGETS = {name: f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}


@dataclass(frozen=True, slots=True)
class SpecDraft:
    """What an architecture reads out of a config or of GGUF metadata; `tensors` locates each weight of `layers`."""

    vocab_size: int
    hidden_size: int
    layers: tuple[Layer, ...]
    final_norm: Norm
    max_position: int
    tied_head: bool
    tensors: TensorMap
    embedding_multiplier: float = 1.0
    logits_soft_cap: float | None = None
    vision_parameters: int = 0


def complete(
    draft: SpecDraft, architecture: str, format_of: Callable[[str], str], dtype: str, quantization: str | None
) -> ModelSpec:
    """The spec. `format_of(tensor)` gives the format that a tensor of the checkpoint is stored in, a key of `FORMATS`."""
    return ModelSpec(
        architecture=architecture,
        vocab_size=draft.vocab_size,
        hidden_size=draft.hidden_size,
        layers=draft.layers,
        final_norm=draft.final_norm,
        weights=tuple(_weights(draft, format_of)),
        max_position=draft.max_position,
        tied_head=draft.tied_head,
        dtype=dtype,
        quantization=quantization,
        embedding_multiplier=draft.embedding_multiplier,
        logits_soft_cap=draft.logits_soft_cap,
        vision_parameters=draft.vision_parameters,
    )


def _weights(draft: SpecDraft, format_of: Callable[[str], str]) -> Iterator[Weight]:
    def weight(last: str, shape: tuple[int, ...], layer: int | None = None, heads: int = 0) -> Weight:
        entry, sources = draft.tensors.entry(last), draft.tensors.sources(last, layer)
        formats = [format_of(source.tensor) for source in sources]
        return Weight(
            last if layer is None else f"layers.{layer}.{last}",
            shape,
            sources,
            formats[0],  # loading checks that they are equal
            transform=Unpermute(heads) if entry is not None and entry.permuted else None,
            shard_axis=SHARD_AXIS.get(last),
            adapter_target=ADAPTER_TARGETS.get(last),
        )

    yield weight("embedding", (draft.vocab_size, draft.hidden_size))
    for i, layer in enumerate(draft.layers):
        for last, shape, heads in _layer(layer, draft.hidden_size):
            yield weight(last, shape, i, heads)
    for last, shape, _ in _norm("final_norm", draft.final_norm, draft.hidden_size):
        yield weight(last, shape)
    if not draft.tied_head:
        yield weight("head", (draft.vocab_size, draft.hidden_size))


Part = tuple[str, tuple[int, ...], int]  # last part of the name, shape, heads that the rows divide into


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
