"""The plain operations mean what torch's own, independent ones mean; edges are the documented ones."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from octavo_engine.kernels import reference
from octavo_models.layers import Norm, Rotary, RotaryScaling


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(5)


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rms_norm_scales_by_weight_plus_offset(offset):
    """Gemma's checkpoints store weight - 1; the offset gives it back."""
    x, weight = torch.randn(5, 37), torch.randn(37)
    expected = functional.rms_norm(x, (37,), weight + offset, 1e-5)
    torch.testing.assert_close(reference.norm(x, weight, Norm(eps=1e-5, offset=offset)), expected)


def test_layer_norm_takes_the_mean_away_and_adds_the_bias():
    x, weight, bias = torch.randn(5, 37) + 3, torch.randn(37), torch.randn(37)
    expected = functional.layer_norm(x, (37,), weight, bias, 1e-5)
    torch.testing.assert_close(reference.norm(x, weight, Norm("layer", 1e-5, bias=True), bias), expected)


def test_norms_of_bfloat16_are_computed_in_float32():
    x, weight = torch.randn(3, 640).bfloat16(), torch.randn(640).bfloat16()
    exact = functional.rms_norm(x.float(), (640,), weight.float(), 1e-6).bfloat16()
    assert torch.equal(reference.norm(x, weight, Norm()), exact)


def test_add_norm_returns_the_norm_of_the_sum_and_the_sum():
    x, residual, weight = torch.randn(4, 24), torch.randn(4, 24), torch.randn(24)
    normed, total = reference.add_norm(x, residual, weight, Norm())
    assert torch.equal(total, residual + x)
    assert torch.equal(normed, reference.norm(total, weight, Norm()))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dim", [24, 16])
def test_rotary_turns_pairs_as_complex_numbers_and_leaves_the_rest(interleaved, dim):
    """Pair i at position p turns by p times the i-th frequency; elements past `dim` are untouched."""
    rotary = Rotary(dim, theta=500.0, interleaved=interleaved)
    x, positions = torch.randn(7, 3, 24), torch.tensor([0, 1, 2, 9, 100, 1000, 5])
    turned = reference.apply_rotary(x, *reference.rotary_table(rotary, positions), interleaved=interleaved)
    pairs = [(2 * i, 2 * i + 1) if interleaved else (i, i + dim // 2) for i in range(dim // 2)]
    for i, (a, b) in enumerate(pairs):
        angle = positions.double() * 500.0 ** (-2 * i / dim)
        expected = (
            torch.complex(x[..., a].double(), x[..., b].double()) * torch.polar(torch.ones(7).double(), angle)[:, None]
        )
        torch.testing.assert_close(turned[..., a].double(), expected.real, atol=2e-4, rtol=0)
        torch.testing.assert_close(turned[..., b].double(), expected.imag, atol=2e-4, rtol=0)
    assert torch.equal(turned[..., dim:], x[..., dim:])


def test_rotary_multiplies_by_the_attention_factor():
    scaling = RotaryScaling("yarn", factor=4.0, original_max_position=128)
    rotary = Rotary(16, scaling=scaling)
    cos, sin = reference.rotary_table(rotary, torch.arange(4))
    torch.testing.assert_close(cos.square() + sin.square(), torch.full((4, 8), rotary.attention_factor() ** 2))


def dense_attention(q, k, v, first_query, *, scale, window=None, soft_cap=None):
    """One request, in float64 over contiguous keys: q [n, heads, d], k and v [len, kv_heads, d]."""
    group = q.shape[1] // k.shape[1]
    k, v = (t.double().repeat_interleave(group, 1).transpose(0, 1) for t in (k, v))
    scores = scale * q.double().transpose(0, 1) @ k.transpose(1, 2)
    if soft_cap is not None:
        scores = soft_cap * torch.tanh(scores / soft_cap)
    for row in range(q.shape[0]):
        position = first_query + row
        scores[:, row, position + 1 :] = -torch.inf
        if window is not None:
            scores[:, row, : max(0, position - window + 1)] = -torch.inf
    return (scores.softmax(-1) @ v).transpose(0, 1).float()


@pytest.mark.parametrize("block_size", [1, 16, 5])
@pytest.mark.parametrize(("window", "soft_cap"), [(None, None), (7, None), (1, None), (40, 3.0), (None, 2.0)])
@pytest.mark.parametrize(("heads", "kv_heads"), [(9, 3), (4, 1), (2, 2)])
def test_attention_over_scattered_blocks_equals_dense_attention(block_size, window, soft_cap, heads, kv_heads):
    """Prefills, chunks and decodes in one batch; blocks out of order; what lies before the window may be gone."""
    dim_k, dim_v, scale = 12, 10, 0.3
    requests = [(1, 1), (33, 33), (40, 1), (50, 17), (16, 16), (64, 2)]  # (tokens in all, of which queries)
    num_blocks = sum(-(-length // block_size) for length, _ in requests)
    k_cache = torch.full((num_blocks + 1, block_size, kv_heads, dim_k), torch.nan)
    v_cache = torch.full((num_blocks + 1, block_size, kv_heads, dim_v), torch.nan)
    free = (torch.randperm(num_blocks) + 1).tolist()
    starts, tables, rows, expected = [0], [], [], []
    for length, queries in requests:
        table = torch.tensor([free.pop() for _ in range(-(-length // block_size))])
        k, v, q = (torch.randn(length, n, d) for n, d in ((kv_heads, dim_k), (kv_heads, dim_v), (heads, dim_k)))
        at = torch.arange(length)
        reference.kv_write(k, v, k_cache, v_cache, table[at // block_size] * block_size + at % block_size)
        first = length - queries
        if window is not None:
            table[: max(0, first - window + 1) // block_size] = 0  # freed: the null block, which holds NaN here
        expected.append(dense_attention(q[first:], k, v, first, scale=scale, window=window, soft_cap=soft_cap))
        rows.append(q[first:])
        tables.append(table)
        starts.append(starts[-1] + queries)
    got = reference.paged_attention(
        torch.cat(rows),
        k_cache,
        v_cache,
        tables,
        starts,
        [length for length, _ in requests],
        scale=scale,
        window=window,
        soft_cap=soft_cap,
    )
    torch.testing.assert_close(got, torch.cat(expected))


def test_the_null_block_is_never_written():
    k_cache, v_cache = torch.zeros(3, 4, 1, 2), torch.zeros(3, 4, 1, 2)
    reference.kv_write(torch.ones(3, 1, 2), torch.ones(3, 1, 2), k_cache, v_cache, torch.tensor([0, 3, 9]))
    assert not k_cache[0].any()
    assert not v_cache[0].any()
    assert k_cache[2, 1].all()
    assert k_cache.sum() == 2


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("silu", lambda x: x * torch.sigmoid(x)),
        ("gelu", lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5))),
        ("gelu_tanh", lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))),
        ("relu", lambda x: x.clamp(min=0)),
        ("relu2", lambda x: x.clamp(min=0) ** 2),
    ],
)
def test_gated_activation_multiplies_the_gate_with_up(kind, expected):
    gate, up = torch.randn(3, 11) * 4, torch.randn(3, 11)
    torch.testing.assert_close(reference.gated(torch.cat((gate, up), -1), kind), expected(gate) * up)


def test_logits_are_multiplied_before_they_are_capped():
    x = torch.randn(2, 9) * 50
    torch.testing.assert_close(reference.soft_cap_logits(x, 0.5, 30.0), 30 * torch.tanh(x * 0.5 / 30))
    assert torch.equal(reference.soft_cap_logits(x, 2.0, None), x * 2)
