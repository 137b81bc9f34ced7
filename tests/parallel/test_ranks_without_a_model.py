"""The messages of a group of ranks beside tensors: commands, and that other ranks move on."""

from __future__ import annotations

import zlib

import pytest

from octavo_engine.executors.torch.parallel_commands import NUM_SLOTS, SLOT_BYTES

SMALL = [1, 7, 4_000, 4_097, 60_000]


def sent(sizes):
    return [[size, zlib.crc32(bytes([i % 251 + 1]) * size)] for i, size in enumerate(sizes)]


def test_commands_reach_every_rank_through_shared_memory(pool):
    """Many more than it holds at once, in their order; none of them takes the process group."""
    sizes = SMALL * 3 * NUM_SLOTS
    for rank in pool.call("commands", tensor=3, sizes=sizes):
        assert rank == {"got": sent(sizes), "by_group": [], "logged": []}


def test_a_command_larger_than_a_slot_takes_the_process_group(pool):
    """Alone: the smaller ones before and after it do not."""
    sizes = [10, SLOT_BYTES, SLOT_BYTES + 1, 20, 3 * SLOT_BYTES, 30]
    for rank in pool.call("commands", tensor=2, sizes=sizes):
        assert rank["got"] == sent(sizes)
        assert rank["by_group"] == [SLOT_BYTES + 1, 3 * SLOT_BYTES]


@pytest.mark.parametrize("rank", [1, 2])
def test_where_one_rank_has_no_shared_memory_all_use_the_process_group(pool, rank):
    """Rank 0 logs the reason, once."""
    lead, *others = pool.call("commands", tensor=3, sizes=SMALL, unmapped_by=rank)
    for each in (lead, *others):
        assert each["got"] == sent(SMALL)
        assert each["by_group"] == SMALL
    (line,) = lead["logged"]
    assert "over TCP" in line
    assert "Permission denied" in line
    assert [each["logged"] for each in others] == [[], []]


def test_ranks_of_several_machines_use_the_process_group(pool):
    """Their configuration says so: there is nothing to log."""
    for each in pool.call("commands", tensor=2, nnodes=2, sizes=SMALL):
        assert each == {"got": sent(SMALL), "by_group": SMALL, "logged": []}


@pytest.mark.parametrize(("num_parts", "beats"), [(3, 3), (0, 0)])
def test_rank_0_beats_while_another_rank_computes(pool, num_parts, beats):
    """Once for each pulse before which a part was done, and not at all while nothing is: such an engine is dead."""
    assert pool.call("parts", pipeline=2, num_parts=num_parts)[0] == beats
