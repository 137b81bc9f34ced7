"""Decoders of every optional part compute what plain numpy computes, in chunks, beside another and token by token."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from decoder_twin import Twin
from native_executors import Sequences, request, start, tokens_of
from tiny_specs import BLOCK, LATENT, LAYER, PLAIN, RMS, attention, draft, mixture, mlp

from octavo_engine.executors.native import executor as native_executor
from octavo_engine.executors.native.executor import NativeExecutor
from octavo_engine.executors.torch.decoder import Decoder
from octavo_engine.executors.torch.executor import TorchExecutor
from octavo_engine.weights.load import LoadedWeight
from octavo_models.layers import Latent, Layer, Mlp, Norm, QueryScaling, Rotary
from octavo_models.spec import LearnedPositions, ModelSpec

SLOPES = (0.5, 0.25, 0.0625, 0.01)
GPT2 = Layer(replace(PLAIN, qkv_bias=True, o_bias=True), Mlp(128, "gelu_tanh", gated=False, bias=True), LAYER, None, LAYER, None)  # fmt: skip
SHARING = (
    attention(qk_norm=RMS, window=19),
    attention(head_dim_k=24, head_dim_v=24, rotary=Rotary(24, 50.0), num_kv_heads=1),
    attention(num_heads=8, qk_norm=RMS, qkv_bias=True, window=19, kv_from_layer=0),
    attention(head_dim_k=24, head_dim_v=24, rotary=Rotary(24, 50.0), num_kv_heads=1, kv_from_layer=1),
)
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
    "norms of values": draft(attention(v_norm=Norm(eps=1e-5, weight=False), qkv_bias=True, head_dim_v=24)),
    "heads of other sizes in each layer": draft(
        layers=(
            attention(num_heads=8, num_kv_heads=1, window=19),
            attention(head_dim_k=40, head_dim_v=40, rotary=Rotary(40, 50.0)),
            attention(num_heads=3, num_kv_heads=3, head_dim_v=8, window=19),
        )
    ),
    "layers that read another's keys and values": draft(layers=SHARING),
    "latents": draft(attention(LATENT)),
    "latents of queries too, with biases": draft(attention(LATENT, latent=Latent(22, 8, 18, RMS, bias=True), o_bias=True)),
    "latents of 70 heads and a dense layer": draft(layers=(attention(LATENT, num_heads=70), BLOCK)),
    "latents with query scaling and sinks": draft(
        attention(LATENT, query_scaling=QueryScaling(0.5, 7, 1), sinks=True, rotary=Rotary(8, 100.0))
    ),
    "experts": draft(mixture()),
    "experts and dense layers": draft(layers=(BLOCK, mixture(), mixture(num=5, chosen=2, expert=Mlp(80)))),
    "experts, not renormalized": draft(mixture(renormalize=False, scale=2.5)),
    "experts by sigmoid, corrected, of the best groups": draft(
        mixture(16, 4, scoring="sigmoid", correction=True, num_groups=4, top_groups=2, scale=1.5)
    ),
    "experts of the groups with the largest": draft(
        mixture(12, 3, num_groups=4, top_groups=2, group_by="max", renormalize=False)
    ),
    "experts by the softmax of the chosen, all with biases": draft(
        mixture(expert=Mlp(48, "swiglu_clamped", bias=True), scoring="softmax_of_chosen", bias=True)
    ),
    "experts by the sparse mixer": draft(mixture(chosen=2, scoring="sparse_mixer", jitter=0.2)),
    "experts of weighed inputs, and a shared one": draft(
        mixture(chosen=1, scoring="sigmoid", renormalize=False, weighs_input=True, shared=Mlp(64))
    ),
    "a shared expert as wide as the model": draft(mixture(shared=Mlp(64), shared_gate=True)),
    "a shared expert with a gate": draft(mixture(shared=Mlp(100, bias=True), shared_gate=True)),
    "plain experts of odd sizes": draft(mixture(expert=Mlp(20, "relu2", gated=False), shared=Mlp(33))),
    "experts in parallel": draft(replace(mixture(), parallel_residual=True, pre_mlp_norm=None)),
    "experts without a norm": draft(replace(mixture(), pre_mlp_norm=None, post_mlp_norm=RMS)),
}  # fmt: skip

OF_TORCH_TOO = (
    "norms of values",
    "heads of other sizes in each layer",
    "layers that read another's keys and values",
)


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
    """A prompt in two chunks and one that joins it, draws of both, then of one alone; float32 within 1e-4."""
    weights = weights_of(SPECS[name])
    check(executor_of(SPECS[name], weights, tmp_path, monkeypatch), SPECS[name], weights)


@pytest.mark.parametrize("name", OF_TORCH_TOO)
def test_logits_of_the_torch_executor_equal_the_twins(name, tmp_path, monkeypatch):
    spec, weights = SPECS[name], weights_of(SPECS[name])
    logits, compute = [], Decoder.logits

    def noted(decoder, hidden):
        logits.append(compute(decoder, hidden))
        return logits[-1]

    monkeypatch.setattr(Decoder, "logits", noted)
    executor = start(
        TorchExecutor, spec, tmp_path, weights=lambda: {n: torch.from_numpy(w) for n, w in weights.items()}
    )
    check(executor, spec, weights, logits)


def check(executor, spec, weights, logits=None):
    """`logits` are those of each step, where the executor does not give them."""
    sequences = Sequences(executor, len(spec.kv_layout(16, "f32").groups))
    a, b = tokens_of(61, 1), tokens_of(33, 2)
    sequences.step({"a": 40}, request("a", a))
    sequences.step({"a": 21, "b": 33}, request("b", b))
    for counts in [{"a": 1, "b": 1}] * 4 + [{"a": 1}] * 3:
        sequences.step(counts)
    twin = Twin(spec, weights)
    drawn = sequences.logits[1:] if logits is None else [step.numpy() for step in logits]
    for row, (request_id, prompt) in enumerate((("a", a), ("b", b))):
        expected = twin.logits(sequences.known[request_id][:-1])[len(prompt) - 1 :]
        got = np.array([step[row] for step in drawn if row < len(step)])
        assert np.abs(expected).max() > 0.3
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    executor.close()


@pytest.mark.parametrize("rank", [20, 22, 512])
def test_blocks_of_latents_take_what_the_description_says(rank, tmp_path, monkeypatch):
    """A token has the latent and its turned key, once for all heads, and nothing is padded."""
    spec = draft(attention(LATENT, latent=Latent(rank, 8)))
    executor = executor_of(spec, weights_of(spec), tmp_path, monkeypatch)
    (group,) = spec.kv_layout(16, "f32").groups
    assert group.kind == "latent"
    assert executor._loaded().block_bytes(0) == group.block_bytes == 2 * 16 * (rank + 8) * 4
    executor.close()


def test_a_prompt_whose_rows_are_more_than_experts_compute_at_once(tmp_path, monkeypatch):
    """700 rows with four of six experts each, beside rows that begin in other places: the twin's logits for all."""
    spec = draft(mixture(6, 4, shared=Mlp(64), shared_gate=True))
    weights = weights_of(spec)
    executor = executor_of(spec, weights, tmp_path, monkeypatch, max_tokens=1024)
    sequences = Sequences(executor, 1)
    prompts = {"a": tokens_of(3, 1), "b": tokens_of(700, 2), "c": tokens_of(41, 3)}
    sequences.step({r: len(p) for r, p in prompts.items()}, {k: v for r, p in prompts.items() for k, v in request(r, p).items()})  # fmt: skip
    twin = Twin(spec, weights)
    expected = np.array([twin.logits(prompt)[-1] for prompt in prompts.values()])
    np.testing.assert_allclose(sequences.logits[0], expected, rtol=1e-4, atol=1e-4)
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


def test_experts_whose_scores_are_all_zero_are_weighed_by_numbers(tmp_path, monkeypatch):
    """Sigmoids of logits below -104 are zero in float32, and so is the sum that they are divided by."""
    spec = draft(mixture(scoring="sigmoid", bias=True))
    weights = weights_of(spec)
    weights = {n: np.full_like(w, -300.0) if n.endswith("router_bias") else w for n, w in weights.items()}
    executor = executor_of(spec, weights, tmp_path, monkeypatch)
    sequences = Sequences(executor, 1)
    assert not sequences.step({"a": 9}, request("a", tokens_of(9, 1))).errors
    assert np.isfinite(sequences.logits[0]).all()
    executor.close()
