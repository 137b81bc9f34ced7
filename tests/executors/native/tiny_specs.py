"""Descriptions of tiny decoders, built from their parts: for what no architecture, or a large one alone, has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

from octavo_models.layers import Attention, Experts, Latent, Layer, Mlp, Norm, Rotary, Router
from octavo_models.spec import ModelSpec
from octavo_models.spec_draft import SpecDraft, complete
from octavo_models.tensors import LayerWeight, OuterWeight, TensorMap, at

HIDDEN = 64
# Every weight lies where its own name says.
TENSORS = TensorMap("layers", {n: at(n) for n in get_args(OuterWeight)}, {n: at(n) for n in get_args(LayerWeight)})
RMS, LAYER = Norm(eps=1e-5), Norm("layer", 1e-5, bias=True)
ROTARY = Rotary(16, 100.0)
ATTENTION = Attention(4, 2, 16, 16, 0.25, ROTARY)
PLAIN = Attention(4, 4, 16, 16, 0.25, None)
LATENT = Attention(4, 1, 24, 12, 0.2, Rotary(8, 100.0, interleaved=True), latent=Latent(20, 8))
MLP, EXPERT = Mlp(96), Mlp(48)
BLOCK = Layer(ATTENTION, MLP, RMS, None, RMS, None)


def draft(layer: Layer = BLOCK, hidden: int = HIDDEN, vocab: int = 211, **fields: Any) -> ModelSpec:
    """Two layers, or those of `layers`."""
    layers = fields.pop("layers", (layer, layer))
    whole = {"final_norm": RMS, "tied_head": False} | fields
    return complete(
        SpecDraft(vocab, hidden, layers, max_position=512, tensors=TENSORS, **whole),
        "Tiny",
        lambda _: "f32",
        "float32",
        None,
    )


def attention(like: Attention = ATTENTION, **fields) -> Layer:
    return replace(BLOCK, attention=replace(like, **fields))


def mlp(**fields) -> Layer:
    return replace(BLOCK, mlp=replace(MLP, **fields))


def mixture(num=8, chosen=3, expert: Mlp = EXPERT, shared: Mlp | None = None, shared_gate=False, **router) -> Layer:
    return replace(BLOCK, mlp=Experts(num, chosen, expert, Router(**router), shared, shared_gate))
