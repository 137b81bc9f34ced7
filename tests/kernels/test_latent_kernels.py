"""Latent attention by kernels: latents and keys in blocks, queries that have taken in keys, attention over latents."""

from __future__ import annotations

import pytest
import torch
from kernel_parity import DTYPES, assert_close, paged_batch, writing_batch

from octavo_engine.kernels.reference_operations import ReferenceOperations
from octavo_engine.kernels.triton.attention_launch import groups_of
from octavo_models.layers import Attention, Latent, Rotary

REFERENCE = ReferenceOperations()


def latent_spec(heads, nope, rotary, v, rank, *, interleaved=True):
    turned = Rotary(rotary, 500.0, interleaved=interleaved)
    return Attention(heads, 1, nope + rotary, v, (nope + rotary) ** -0.5, turned, latent=Latent(rank, rotary))


SPECS = {
    "six heads": latent_spec(6, 12, 8, 10, 20),
    "twenty heads, in two programs": latent_spec(20, 16, 4, 24, 32, interleaved=False),
    "seventeen heads, one a program": latent_spec(17, 8, 16, 8, 48),
    "as published": latent_spec(16, 128, 64, 128, 512),
}
REQUESTS = [(1, 1), (40, 1), (530, 1), (7, 7), (61, 30)]


@pytest.mark.sample(name=["six heads", "twenty heads, in two programs", "as published"], dtype=[torch.bfloat16])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SPECS)
def test_attention_over_latents_is_its_twins(triton_operations, device, name, dtype):
    """Decodes, one of them in several runs, and prefills; blocks that no request may read are NaN."""
    spec = SPECS[name].absorbed
    q, cache, _, batch = paged_batch(spec, REQUESTS, 16, dtype, device)
    expected = REFERENCE.attention(q, cache, cache, batch, spec)
    assert expected.shape == (len(q), spec.num_heads, spec.latent.rank)
    assert_close(triton_operations.attention(q, cache, cache, batch, spec), expected)


def test_query_heads_are_divided_among_programs_that_hold_as_many_each():
    assert groups_of(SPECS["six heads"].absorbed) == (1, 6)
    assert groups_of(SPECS["twenty heads, in two programs"].absorbed) == (2, 10)
    assert groups_of(SPECS["seventeen heads, one a program"].absorbed) == (17, 1)
    assert groups_of(latent_spec(128, 128, 64, 128, 512)) == (8, 16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SPECS)
def test_latents_are_normed_and_written_and_queries_turned_as_by_the_twin(triton_operations, device, name, dtype):
    spec = SPECS[name]
    latent = spec.latent
    n = 7
    slots = torch.tensor([16, 3, 17, 40, 15, 79, 33], device=device)  # those of block 0 are not written
    q = torch.randn(n, spec.q_size, device=device).to(dtype)
    kv = torch.randn(n, latent.width, device=device).to(dtype)
    norm = torch.randn(latent.rank, device=device).to(dtype)
    positions = torch.tensor([5, 0, 1, 900, 77, 2, 31], device=device)
    results = []
    for ops in (REFERENCE, triton_operations):
        turn = ops.rotary_table(spec.rotary, positions)
        cache = torch.full((5, 16, 1, latent.width), 7.0, device=device).to(dtype)
        absorbed = ops.write_latent(q, kv, norm, spec, turn, cache, writing_batch(slots))
        results.append((absorbed[..., latent.rank :], cache))
    for expected, got in zip(*results, strict=True):
        assert_close(got, expected)
    assert bool((results[1][1][0] == 7.0).all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_heads_product_goes_where_heads_lie_apart(triton_operations, device, dtype):
    x, weight = torch.randn(5, 3, 40, device=device).to(dtype), torch.randn(3, 24, 32, device=device).to(dtype)
    out = [torch.zeros(5, 3, 30, device=device, dtype=dtype) for _ in range(2)]
    REFERENCE.by_head(x[..., :32], weight, out[0][..., :24])
    triton_operations.by_head(x[..., :32], weight, out[1][..., :24])
    torch.testing.assert_close(out[1].float(), out[0].float(), atol=0.1 if dtype != torch.float32 else 1e-5, rtol=1e-2)
    assert bool((out[1][..., 24:] == 0).all())


def test_the_whole_of_it_is_attention_with_every_heads_own_keys_and_values(triton_operations, device):
    """Against keys and values that are made from the latents, as DeepSeek's paper defines them (arXiv 2405.04434)."""
    spec = SPECS["six heads"]
    latent, n = spec.latent, 23
    nope = spec.head_dim_k - latent.rotary_dim
    q, kv = torch.randn(n, spec.q_size, device=device), torch.randn(n, latent.width, device=device)
    norm = torch.randn(latent.rank, device=device)
    k_b = torch.randn(spec.num_heads, latent.rank, nope, device=device)
    v_b = torch.randn(spec.num_heads, spec.head_dim_v, latent.rank, device=device)
    positions = torch.arange(n, device=device)
    slots = 16 + positions
    cache = torch.zeros(3, 16, 1, latent.width, device=device)
    _, _, _, batch = paged_batch(spec.absorbed, [(n, n)], 16, torch.float32, device)
    batch.block_tables[batch.rows[0], :2] = torch.tensor([1, 2], dtype=torch.int32, device=device)
    turn = triton_operations.rotary_table(spec.rotary, positions)
    absorbed = triton_operations.write_latent(q, kv, norm, spec, turn, cache, writing_batch(slots))
    heads = q.view(n, spec.num_heads, -1)
    triton_operations.by_head(heads[..., :nope], k_b, absorbed[..., : latent.rank])
    mixed = triton_operations.attention(absorbed, cache, cache, batch, spec.absorbed)
    got = torch.empty(n, spec.num_heads, spec.head_dim_v, device=device)
    triton_operations.by_head(mixed, v_b, got)

    c, key = kv[:, : latent.rank], kv[:, latent.rank :]
    c = c * torch.rsqrt(c.square().mean(-1, keepdim=True) + latent.norm.eps) * norm
    angle = positions[:, None].float() * torch.tensor(spec.rotary.inverse_frequencies(), device=device)

    def turned(x):
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
        by = torch.polar(torch.ones_like(angle), angle)
        return torch.view_as_real(pairs * (by if x.dim() == 2 else by[:, None])).flatten(-2)

    own_keys = torch.einsum("hri,tr->thi", k_b, c)
    values = torch.einsum("hvr,tr->thv", v_b, c)
    scores = torch.einsum("qhi,khi->hqk", heads[..., :nope], own_keys)
    scores += torch.einsum("qhi,ki->hqk", turned(heads[..., nope:]), turned(key))
    scores = (scores * spec.scale).masked_fill(torch.ones(n, n, device=device).triu(1).bool(), -torch.inf)
    expected = torch.einsum("hqk,khv->qhv", scores.softmax(-1), values)
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-3)
