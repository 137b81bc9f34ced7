"""Sums between ranks over symmetric memory: which of them take it, that they are right, and when all ranks do without.

Without GPUs: torch's operations are stood in for by ones that refuse what torch's refuse (`symmetric_stand_in`).
"""

from __future__ import annotations

import pytest

from octavo_engine.executors.torch.parallel_symmetric import BUFFER_BYTES, ONE_SHOT_BYTES, TRIAL_BYTES

KIB = 1 << 10
ONE_SHOT, MULTIMEM = "one_shot_all_reduce", "multimem_all_reduce_"
BF16, F32 = "torch.bfloat16", "torch.float32"


def rows(num_bytes, dtype, width=512):
    """A step's hidden rows of so many bytes."""
    size = {"bfloat16": 2, "float16": 2, "float32": 4}[dtype]
    assert num_bytes % (size * width) == 0
    return ([num_bytes // size // width, width], dtype, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("tensor", "most"), [(2, 2 << 20), (3, 512 * KIB), (4, 512 * KIB)])
def test_sums_up_to_a_size_take_one_kernel_and_larger_ones_the_process_group(pool, tensor, most):
    """In both types; ranks have the same bits, those of a sum in the order of the ranks."""
    shapes = [rows(KIB, "bfloat16"), rows(most, "float32"), rows(most + 2 * KIB, "float32"), rows(most, "bfloat16")]
    ranks = pool.call("sums", tensor=tensor, shapes=shapes)
    for rank in ranks:
        assert rank["calls"] == [[ONE_SHOT, KIB, BF16], [ONE_SHOT, most, F32], [ONE_SHOT, most, BF16]]
        assert rank["by_group"] == [most + 2 * KIB]
        assert all(close for close, _, _ in rank["found"])
        assert all(equal for i, (_, equal, _) in enumerate(rank["found"]) if i != 2)
        assert [found[2] for found in rank["found"]] == [found[2] for found in ranks[0]["found"]]


def test_where_the_switch_can_add_it_does_so_for_larger_sums(pool):
    """Up to the size of the buffer."""
    most = ONE_SHOT_BYTES[2]
    shapes = [rows(most, "bfloat16"), rows(most + KIB, "bfloat16"), rows(BUFFER_BYTES, "float32")]
    shapes.append(rows(BUFFER_BYTES + 2 * KIB, "float32"))
    for rank in pool.call("sums", tensor=2, shapes=shapes, multicast=True):
        assert rank["calls"] == [[ONE_SHOT, most, BF16], [MULTIMEM, most + KIB, BF16], [MULTIMEM, BUFFER_BYTES, F32]]
        assert rank["by_group"] == [BUFFER_BYTES + 2 * KIB]
        assert all(close for close, _, _ in rank["found"])


def test_what_torchs_kernels_refuse_takes_the_process_group(pool):
    """Half precision, and sizes that are no multiple of the widest load."""
    shapes = [rows(KIB, "float16"), ([3], "float32", 0), ([0, 512], "bfloat16", 0), ([7, 3], "bfloat16", 0)]
    for rank in pool.call("sums", tensor=2, shapes=shapes):
        assert rank["calls"] == []
        assert rank["by_group"] == [KIB, 12, 0, 42]
        assert all(close for close, _, _ in rank["found"])


@pytest.mark.parametrize("offset", [1, 3, 4, 8])
def test_a_tensor_that_begins_unaligned_is_copied(pool, offset):
    """Another way of summing would not do: ranks whose tensors begin elsewhere must agree."""
    for rank in pool.call("sums", tensor=2, shapes=[([4, 512], "bfloat16", offset)]):
        assert rank["calls"] == [[ONE_SHOT, 4 * KIB, BF16]]
        assert rank["found"][0][:2] == [True, True]


@pytest.mark.parametrize("multicast", [False, True])
def test_each_kernel_is_tried_once_at_load(pool, multicast):
    """In each type: what would fail, or is loaded at first use, does so before a graph captures it."""
    large = ONE_SHOT_BYTES[2] + 16
    expected = [[ONE_SHOT, TRIAL_BYTES], [MULTIMEM, large]] if multicast else [[ONE_SHOT, TRIAL_BYTES]]
    lead, other = pool.call("sums", tensor=2, shapes=[], multicast=multicast)
    for rank in (lead, other):
        assert rank["tried"] == [[*call, dtype] for dtype in (BF16, F32) for call in expected]
        assert rank["held"] == 1
        assert rank["waits_for_ever"]
    (line,) = lead["logged"]
    assert "take symmetric memory" in line
    assert other["logged"] == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("obstacle", "can't read the memory of GPU 0"),
        ("allocate", "CUDA out of memory. Tried to allocate 8.00 MiB"),
        ("meet", "operation not supported"),
        ("trial", "a sum of 256 bytes of torch.bfloat16 was wrong"),
    ],
)
@pytest.mark.parametrize("faulty_rank", [0, 2])
def test_what_hinders_one_rank_sends_all_sums_to_the_process_group(pool, fault, words, faulty_rank):
    """All ranks decide alike at whatever stage it is, let go of the memory, and rank 0 logs the reason once."""
    lead, *others = pool.call("sums", tensor=3, shapes=[rows(KIB, "bfloat16")], fault=fault, faulty_rank=faulty_rank)
    for rank in (lead, *others):
        assert rank["calls"] == []
        assert rank["by_group"] == [KIB]
        assert rank["found"][0][0]
        assert rank["held"] == 0
        assert rank["waits_for_ever"]
    (line,) = lead["logged"]
    assert "take NCCL" in line
    assert words in line
    assert "\n" not in line
    assert [rank["logged"] for rank in others] == [[], []]
    assert f"rank {faulty_rank}: " in line or fault == "trial"  # a wrong part makes all of them wrong


@pytest.mark.parametrize(
    ("how", "words"),
    [({"nnodes": 2}, ["no symmetric memory: the ranks are on 2 machines"]), ({"custom_all_reduce": False}, [])],
)
def test_several_machines_and_the_flag_leave_all_sums_to_the_process_group(pool, how, words):
    """Nothing is allocated, and no trial made."""
    lead, other = pool.call("sums", tensor=2, shapes=[rows(KIB, "bfloat16")], **how)
    for rank in (lead, other):
        assert (rank["tried"], rank["calls"], rank["by_group"], rank["held"]) == ([], [], [KIB], 0)
    assert [line.partition(": ")[2] for line in lead["logged"]] == words
    assert other["logged"] == []


def test_each_stage_of_a_pipeline_has_its_own(pool):
    """Two groups of two ranks."""
    for rank in pool.call("sums", tensor=2, pipeline=2, shapes=[rows(2 * KIB, "float32")]):
        assert rank["calls"] == [[ONE_SHOT, 2 * KIB, F32]]
        assert rank["found"][0][:2] == [True, True]


def test_memory_goes_before_the_groups(pool):
    """After the graphs that have captured its address, which the executor forgets before it closes the group."""
    for rank in pool.call("sums", tensor=2, shapes=[]):
        assert rank["order"] == ["groups destroyed with 0 buffers"]
