"""Kernels add to a product what their twin adds, whichever rows use which adapter."""

from __future__ import annotations

import pytest
import torch
from kernel_parity import DTYPES

from octavo_engine.kernels.adapter_weights import AdapterRows, AdapterWeights
from octavo_engine.kernels.reference_operations import ReferenceOperations
from octavo_engine.kernels.triton.adapters import scratch_bytes

REFERENCE = ReferenceOperations()
NONE = -1


def slots_of(num_slots, in_features, sizes, rank, dtype, device, ranks=None):
    """Random matrices in slots that lie apart, NaN between them; `ranks` of each slot, the room's unless said."""
    ranks = ranks or [rank] * num_slots
    a_size, b_size = len(sizes) * rank * in_features, sum(sizes) * rank
    a_room, b_room = (-(-size // 64) * 64 for size in (a_size, b_size))  # as slots are laid out: aligned
    buffer = torch.full((num_slots, a_room + b_room + 64), torch.nan, device=device).to(dtype)
    a = buffer[:, :a_size].view(num_slots, len(sizes) * rank, in_features)
    b = buffer[:, a_room : a_room + b_size].view(num_slots, sum(sizes), rank)
    a.copy_(torch.randn(a.shape, device=device) / in_features**0.5)
    b.copy_(torch.randn(b.shape, device=device) / rank**0.5)
    for slot, own in enumerate(ranks):
        b[slot, :, own:] = 0
        a[slot].view(len(sizes), rank, in_features)[:, own:] = 0
    return AdapterWeights(a, b, tuple(sizes), torch.tensor(ranks, dtype=torch.int32, device=device))


def rows_of(slot_of_row, tile_rows, device, *, padding=0):
    """The rows of each slot as tiles; NONE: a row without an adapter."""
    order, tiles = [], []
    for slot in sorted(set(slot_of_row) - {NONE}):
        own = [i for i, s in enumerate(slot_of_row) if s == slot]
        first, end = len(order), len(order) + len(own)
        order += own
        tiles += [(slot, at, min(at + tile_rows, end)) for at in range(first, end, tile_rows)]
    tiles += [(NONE, 0, 0)] * padding
    order += [0] * padding
    packed = torch.tensor([7, *order, *(n for column in zip(*tiles, strict=True) for n in column)], dtype=torch.int32)
    packed = packed.to(device)  # one buffer, in which neither begins at a multiple of 16 bytes
    return AdapterRows(packed[1 : 1 + len(order)], packed[1 + len(order) :].view(3, -1), tile_rows)


def check(
    triton_operations, device, dtype, slot_of_row, *, in_features=80, sizes=(48,), rank=16, ranks=None, padding=0
):
    n, num_slots = len(slot_of_row), max(slot_of_row) + 1
    weights = slots_of(max(1, num_slots), in_features, sizes, rank, dtype, device, ranks)
    x = torch.randn(n, in_features, device=device).to(dtype)
    y = torch.randn(n, sum(sizes), device=device).to(dtype)
    expected, got = y.clone(), y.clone()
    num_rows = sum(slot != NONE for slot in slot_of_row)
    REFERENCE.add_adapters(expected, x, weights, rows_of(slot_of_row, REFERENCE.adapter_tile(num_rows), device))
    triton_operations.add_adapters(
        got, x, weights, rows_of(slot_of_row, triton_operations.adapter_tile(num_rows), device, padding=padding)
    )
    # What the first product makes is rounded, and of sums in another order a rounding may fall to the other side.
    bounds = {torch.float32: (2e-5, 2e-5), torch.bfloat16: (3e-2, 2e-2), torch.float16: (4e-3, 4e-3)}[dtype]
    torch.testing.assert_close(got, expected, atol=bounds[0], rtol=bounds[1])
    untouched = [i for i, slot in enumerate(slot_of_row) if slot == NONE or (ranks and not ranks[slot])]
    assert torch.equal(got[untouched], y[untouched])
    return y, x, weights, got


@pytest.mark.sample(dtype=[torch.bfloat16])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [1, 8, 16, 64])
def test_adapters_of_every_rank_are_their_twins(triton_operations, device, dtype, rank):
    check(triton_operations, device, dtype, [0, 1, NONE, 0, 2, 1], rank=rank)


@pytest.mark.sample(rank=[8])
@pytest.mark.parametrize("rank", [8, 80])
def test_projections_of_one_input_each_have_their_own_part(triton_operations, device, rank):
    """Sizes are none that blocks divide, smaller than a block, and larger; rank 80 is more than one pass takes."""
    check(triton_operations, device, torch.float32, [1, 0, 0, NONE, 1], sizes=(300, 20, 33), rank=rank)
    check(triton_operations, device, torch.float32, [0, NONE], sizes=(7, 129), in_features=33, rank=rank)


def test_what_is_added_is_b_of_a_of_x(triton_operations, device):
    """The formula decides, not the twin."""
    y, x, weights, got = check(triton_operations, device, torch.float32, [1, NONE, 0], sizes=(24, 8), rank=4)
    for row, slot in ((0, 1), (2, 0)):
        low = weights.a[slot] @ x[row]
        added = torch.cat([weights.b[slot, :24] @ low[:4], weights.b[slot, 24:] @ low[4:]])
        torch.testing.assert_close(got[row], y[row] + added, atol=2e-5, rtol=2e-5)


def test_all_rows_may_use_one_adapter_and_others_none(triton_operations, device):
    check(triton_operations, device, torch.float32, [2] * 40)  # nor does any row use slots 0 and 1
    check(triton_operations, device, torch.bfloat16, [NONE] * 5 + [0])


def test_more_rows_than_small_tiles_serve(triton_operations, device):
    slots = [i % 3 if i % 7 else NONE for i in range(400)]
    assert triton_operations.adapter_tile(400) > triton_operations.adapter_tile(4)
    check(triton_operations, device, torch.float32, slots, in_features=70, sizes=(40, 16))


def test_lower_ranks_and_slots_without_a_part_are_as_if_there_was_no_more(triton_operations, device):
    """Rank 0: the adapter has nothing for this product; its rows stay what they were."""
    check(triton_operations, device, torch.float32, [0, 1, 2, 3, 1], rank=16, ranks=[16, 3, 0, 1])


def test_empty_tiles_of_a_graph_change_nothing(triton_operations, device):
    check(triton_operations, device, torch.float32, [0, NONE, 1], padding=5)


def test_a_step_without_rows_launches_nothing(triton_operations, device):
    weights = slots_of(1, 32, (16,), 8, torch.float32, device)
    none = torch.zeros(0, dtype=torch.int32, device=device)
    y = torch.randn(2, 16, device=device)
    before = y.clone()
    triton_operations.add_adapters(y, y.new_zeros(2, 32), weights, AdapterRows(none, none.view(3, 0), 16))
    assert torch.equal(y, before)


def test_inputs_that_lie_apart_are_read_as_they_are(triton_operations, device):
    weights = slots_of(2, 32, (16,), 8, torch.float32, device)
    x = torch.randn(3, 64, device=device)[:, 1::2]
    expected, got = torch.zeros(2, 3, 16, device=device)
    REFERENCE.add_adapters(expected, x, weights, rows_of([1, 0, 1], 3, device))
    triton_operations.add_adapters(got, x, weights, rows_of([1, 0, 1], triton_operations.adapter_tile(3), device))
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("num_tokens", [1, 100, 256, 257, 5000])
def test_scratch_is_bounded_by_what_is_said_of_it(triton_operations, num_tokens):
    """Whatever share of a step's rows uses adapters."""
    launch = triton_operations.launch
    bound = scratch_bytes(launch, num_tokens, 48)
    for rows in {1, num_tokens // 2, min(256, num_tokens), num_tokens}:
        split = launch.parameters(f"shrink.{16 if rows <= 256 else 64}")["SPLIT_K"]
        assert 4 * split * rows * 48 <= bound
