"""Decoders of every optional part compute what plain numpy computes, in chunks, beside another and token by token."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from decoder_twin import Twin
from native_executors import Sequences, request, start, tokens_of

from octavo_engine.executors.native import executor as native_executor
from octavo_engine.executors.native.executor import NativeExecutor
from octavo_engine.weights.load import LoadedWeight
from octavo_models.layers import Attention, Layer, Mlp, Norm, QueryScaling, Rotary
from octavo_models.spec import LearnedPositions, ModelSpec
from octavo_models.spec_draft import SpecDraft, complete
from octavo_models.tensors import LayerWeight, OuterWeight, TensorMap, at

HIDDEN = 64
# Every weight lies where its own name says.
TENSORS = TensorMap("layers", {n: at(n) for n in get_args(OuterWeight)}, {n: at(n) for n in get_args(LayerWeight)})
RMS, LAYER = Norm(eps=1e-5), Norm("layer", 1e-5, bias=True)
ROTARY = Rotary(16, 100.0)
ATTENTION = Attention(4, 2, 16, 16, 0.25, ROTARY)
PLAIN = Attention(4, 4, 16, 16, 0.25, None)
SLOPES = (0.5, 0.25, 0.0625, 0.01)
MLP = Mlp(96)
BLOCK = Layer(ATTENTION, MLP, RMS, None, RMS, None)


def draft(layer: Layer = BLOCK, **fields) -> ModelSpec:
    """Two layers, or those of `layers`."""
    layers = fields.pop("layers", (layer, layer))
    whole = {"final_norm": RMS, "tied_head": False} | fields
    return complete(
        SpecDraft(211, HIDDEN, layers, max_position=512, tensors=TENSORS, **whole),
        "Tiny",
        lambda _: "f32",
        "float32",
        None,
    )


def attention(like: Attention = ATTENTION, **fields) -> Layer:
    return replace(BLOCK, attention=replace(like, **fields))


def mlp(**fields) -> Layer:
    return replace(BLOCK, mlp=replace(MLP, **fields))


GPT2 = Layer(replace(PLAIN, qkv_bias=True, o_bias=True), Mlp(128, "gelu_tanh", gated=False, bias=True), LAYER, None, LAYER, None)  # fmt: skip
SPECS: dict[str, ModelSpec] = {
    "plain": draft(),
    "learned positions": draft(GPT2, positions=LearnedPositions(130, 2), final_norm=LAYER, tied_head=True),
    "embedding norm and ALiBi": draft(
        replace(GPT2, attention=replace(GPT2.attention, alibi_slopes=SLOPES)), embedding_norm=LAYER, final_norm=LAYER
    ),
    "ALiBi in a window": draft(attention(alibi_slopes=SLOPES, rotary=None, window=21)),
    "norms without weights": draft(
        replace(BLOCK, pre_attention_norm=Norm("layer", weight=False), post_mlp_norm=Norm(weight=False)),
        final_norm=Norm("layer", weight=False),
    ),
    "no final norm": draft(final_norm=None),
    "bias of the head": draft(head_bias=True, logits_multiplier=0.5),
    "bias of a tied head": draft(head_bias=True, tied_head=True),
    "a narrow embedding": draft(projected_embedding=32, positions=LearnedPositions(130, 0), embedding_multiplier=3.0),
    "a narrow embedding, tied": draft(projected_embedding=32, tied_head=True, final_norm=None),
    "norms of the sum": draft(
        Layer(PLAIN, Mlp(96, "relu", gated=False, bias=True), None, LAYER, None, LAYER, post_norms_sum=True),
        residual_multiplier=0.5,
    ),
    "clipped": draft(attention(qkv_clip=0.4, qkv_bias=True)),
    "quick gelu": draft(mlp(activation="quick_gelu", bias=True)),
    "xielu": draft(mlp(activation="xielu", gated=False)),
    "xielu, gated": draft(mlp(activation="xielu")),
    "clamped swiglu": draft(mlp(activation="swiglu_clamped", bias=True)),
    "MLPs of odd sizes": draft(layers=(mlp(intermediate_size=50, bias=True), mlp(intermediate_size=40, gated=False))),
    "GPT-J": draft(
        replace(BLOCK, attention=replace(PLAIN, rotary=Rotary(8, 100.0, interleaved=True)), pre_mlp_norm=None,
                pre_attention_norm=LAYER, mlp=Mlp(96, "gelu_tanh", gated=False, bias=True), parallel_residual=True),
        head_bias=True, final_norm=LAYER,
    ),
    "parallel with two norms": draft(
        replace(GPT2, attention=replace(GPT2.attention, rotary=Rotary(4, 100.0)), parallel_residual=True)
    ),
    "71 heads on one": draft(attention(num_heads=71, num_kv_heads=1, head_dim_k=8, head_dim_v=8, rotary=Rotary(8, 100.0))),
    "LayerNorm of each head": draft(attention(qk_norm=LAYER)),
    "norms with weights of each head": draft(attention(qk_norm=RMS, qk_norm_span="each_head")),
    "LayerNorms with weights of each head": draft(attention(qk_norm=LAYER, qk_norm_span="each_head")),
    "norms over all heads": draft(attention(qk_norm=RMS, qk_norm_span="width", qkv_bias=True, qkv_clip=1.5)),
    "LayerNorms over all heads": draft(attention(qk_norm=LAYER, qk_norm_span="width")),
    "norms after rotary": draft(attention(qk_norm=RMS, qk_norm_after_rotary=True)),
    "norms over all heads after rotary": draft(attention(qk_norm=RMS, qk_norm_span="width", qk_norm_after_rotary=True)),
    "norms of heads without weights": draft(attention(qk_norm=Norm(weight=False), qk_norm_after_rotary=True)),
    "query scaling": draft(attention(query_scaling=QueryScaling(0.5, 7, 1), rotary=None)),
    "output gates": draft(attention(output_gate=True, qkv_bias=True, head_dim_v=24)),
    "chunks": draft(attention(chunk=23)),
    "sinks": draft(layers=(attention(sinks=True), attention(sinks=True, window=19))),
}  # fmt: skip


def weights_of(spec: ModelSpec) -> dict[str, np.ndarray]:
    """Random ones of a size that keeps activations near one, norms and biases too."""
    rng = np.random.default_rng(5)
    weights = {}
    for weight in spec.weights:
        values = rng.standard_normal(weight.shape)
        if len(weight.shape) > 1:
            values *= 1.0 if weight.name in {"embedding", "positions"} else 1.5 * weight.shape[1] ** -0.5
        else:
            values = values * 0.3 + (1.0 if weight.name.endswith("norm") else 0.0)
        weights[weight.name] = values.astype(np.float32)
    return weights


def executor_of(spec: ModelSpec, weights, folder, monkeypatch, **fields):
    def load(spec, checkpoint):
        for weight in spec.weights:
            rows = weights[weight.name].reshape(1 if len(weight.shape) == 1 else weight.shape[0], -1)
            yield weight, LoadedWeight("f32", weight.shape, rows.view(np.uint8))

    monkeypatch.setattr(native_executor, "load_weights", load)
    return start(NativeExecutor, spec, folder, **fields)


@pytest.mark.parametrize("name", SPECS)
def test_logits_equal_the_twins(name, tmp_path, monkeypatch):
    """A prompt in two chunks and one that joins it, then six draws of both; float32 within 1e-4."""
    spec = SPECS[name]
    weights = weights_of(spec)
    executor = executor_of(spec, weights, tmp_path, monkeypatch)
    sequences = Sequences(executor, len(spec.kv_layout(16, "f32").groups))
    a, b = tokens_of(61, 1), tokens_of(33, 2)
    sequences.step({"a": 40}, request("a", a))
    sequences.step({"a": 21, "b": 33}, request("b", b))
    for _ in range(6):
        sequences.step({"a": 1, "b": 1})
    twin = Twin(spec, weights)
    drawn = sequences.logits[1:]
    for row, (request_id, prompt) in enumerate((("a", a), ("b", b))):
        expected = twin.logits(sequences.known[request_id][:-1])[len(prompt) - 1 :]
        got = np.array([step[row] for step in drawn])
        assert np.abs(expected).max() > 0.3
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    executor.close()


def test_a_position_beyond_the_table_is_that_requests_error(tmp_path, monkeypatch):
    """Learned positions end where their table does: nothing beyond it is read."""
    spec = SPECS["learned positions"]
    sequences = Sequences(executor_of(spec, weights_of(spec), tmp_path, monkeypatch), 1)
    out = sequences.step(
        {"good": 128, "long": 128}, {**request("good", tokens_of(128, 1)), **request("long", tokens_of(129, 2))}
    )
    assert not out.errors
    out = sequences.step({"long": 1})
    assert out.errors == {"long": "position 128 is beyond the model's 128 learned ones"}
