"""The bytes of a GPU that blocks get: all that is left beside the largest step, which is run to measure it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from octavo_testing.planner_cases import SMALL
from torch.utils._python_dispatch import TorchDispatchMode

from octavo_engine.config import SchedulerConfig
from octavo_engine.core.outputs import KVOps
from octavo_engine.errors import ExecutorError
from octavo_engine.executors.torch import kv_cache as module
from octavo_engine.executors.torch.kv_cache import KVCache
from octavo_engine.executors.torch.memory import GIB, LargestGraph, Measured, largest_step, longest_of_step, measure
from octavo_models import from_hf_config
from octavo_models.spec import KVGroup, KVLayout

LAYOUT = KVLayout(16, (KVGroup("full", (0,), 64), KVGroup("window", (1,), 64, 32)))


class Gpu:
    """A device of 80 GiB, of which others use one and PyTorch holds a given number of bytes."""

    def __init__(self) -> None:
        self.weights = 16 * GIB
        self.libraries = 0
        self.graphs = 0

    def total(self) -> int:
        return 80 * GIB

    def held(self) -> int:
        return self.weights + self.graphs

    def free(self) -> int:
        driver = GIB // 8 if self.graphs else 0
        return 79 * GIB - self.held() - self.libraries - driver

    def peak(self, run) -> int:
        run()
        return self.held() + 3 * GIB

    def step(self) -> None:
        self.libraries = GIB  # loaded by the first step, and there to stay

    def run_graph(self) -> None:
        self.libraries = 2 * GIB  # what its sizes load and compile beside it, once

    def record(self) -> None:
        self.graphs = 2 * GIB

    def forget(self) -> None:
        self.graphs = 0


def test_blocks_get_what_the_largest_step_and_the_graphs_leave():
    """The pool of all graphs once, the driver's part as often as there may be graphs, and not a byte twice."""
    gpu = Gpu()
    measured = measure(gpu, gpu.step, 0, LargestGraph(10, gpu.run_graph, gpu.record, gpu.forget))
    assert measured == Measured(total=80 * GIB, used=19 * GIB, activations=3 * GIB, graphs=2 * GIB + 10 * (GIB // 8))
    assert measured.kv_bytes(0.9) == 72 * GIB - 19 * GIB - 3 * GIB - 2 * GIB - 10 * (GIB // 8)


def test_without_graphs_nothing_is_kept_for_them():
    gpu = Gpu()
    assert measure(gpu, gpu.step, 0).graphs == 0


@pytest.mark.parametrize(("computed", "warns"), [(5 * GIB, False), (3 * GIB, False), (GIB, True)])
def test_steps_get_the_larger_of_what_is_computed_and_what_is_measured(caplog, computed, warns):
    """The largest step confirms the figure: where it takes more, the log shows it."""
    gpu = Gpu()
    assert measure(gpu, gpu.step, computed).activations == max(computed, 3 * GIB)
    assert ("more than the" in caplog.text) == warns


def test_a_gpu_that_is_too_small_says_what_takes_its_room():
    with pytest.raises(
        ExecutorError, match=r"90% of 80.00 GiB, of which 70.00 GiB are in use .* takes 3.00 .* --max-num"
    ):
        Measured(80 * GIB, 70 * GIB, 3 * GIB, 0).kv_bytes(0.9)


@pytest.mark.parametrize(
    ("tokens", "seqs", "max_len", "lengths"),
    [(10, 3, 100, [4, 3, 3]), (2, 3, 100, [1, 1]), (100, 2, 30, [30, 30])],
)
def test_the_largest_step_has_all_requests_and_all_tokens(tokens, seqs, max_len, lengths):
    """Every one of them draws, and every position of it is scored."""
    step = largest_step(SchedulerConfig(max_num_seqs=seqs, max_num_batched_tokens=tokens), LAYOUT, max_len)
    assert max(lengths) == min(
        longest_of_step(SchedulerConfig(max_num_seqs=seqs, max_num_batched_tokens=tokens)), max_len
    )
    assert list(step.num_scheduled_tokens.values()) == list(step.logits_wanted.values()) == lengths
    assert step.samples == step.num_scheduled_tokens.keys()
    for request in step.new:
        assert [len(blocks) for blocks in request.block_ids] == [-(-len(request.token_ids) // 16)] * 2


SWAPPING = {"num_hidden_layers": 3}
LATENT = {
    "architectures": ["YoutuForCausalLM"],
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "kv_lora_rank": 20,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 12,
}
KINDS = pytest.mark.parametrize("kind", ["plain", "wide", "latent"])
WIDE_KEYS = 24  # of heads whose values are narrower, as in DeepSeek's attention: two sizes of matrices


def kv_cache(num_blocks, num_host_blocks, *, kind="plain", lock=None):
    spec = from_hf_config(SMALL | SWAPPING | (LATENT if kind == "latent" else {}))
    if kind == "wide":
        layers = tuple(
            replace(layer, attention=replace(layer.attention, head_dim_k=WIDE_KEYS, rotary=None))
            for layer in spec.layers
        )
        spec = replace(spec, layers=layers)
    layout = spec.kv_layout(16, "bf16")
    return KVCache(spec, layout, (num_blocks,), "bf16", torch.device("cpu"), (num_host_blocks,), lock), layout


@KINDS
def test_blocks_of_a_group_are_one_allocation_of_the_bytes_that_were_said(kind):
    """Blocks of the device and of the host are: PyTorch rounds each of its own up, pinned ones to powers of two."""
    locked, unlocked = [], []

    def lock(memory):
        locked.append((memory.data_ptr(), memory.nbytes))
        return lambda: unlocked.append(memory.data_ptr())

    cache, layout = kv_cache(7, 5, kind=kind, lock=lock)
    tensors = [*cache.keys.values(), *cache.values.values()]
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == 1
    assert tensors[0].untyped_storage().nbytes() == 7 * layout.groups[0].block_bytes
    assert len({tensor.data_ptr() for tensor in tensors}) == len(tensors) == (3 if kind == "latent" else 6)
    hosts = [stack.host for stack in cache._stacks[0]]
    assert {host.untyped_storage().data_ptr() for host in hosts} == {locked[0][0]}
    assert [size for _, size in locked] == [5 * layout.groups[0].block_bytes]
    assert sum(host.nbytes for host in hosts) == locked[0][1]
    cache.close()
    assert unlocked == [locked[0][0]]


@KINDS
@pytest.mark.parametrize("staging_blocks", [1, 2, 100])
def test_swapped_blocks_come_back_as_they_were(monkeypatch, kind, staging_blocks):
    """However many fit into the staging buffers; out, then copies, then in, and into other blocks."""
    _, layout = kv_cache(1, 1, kind=kind)
    monkeypatch.setattr(module, "STAGING_BYTES", staging_blocks * layout.groups[0].block_bytes)
    cache, _ = kv_cache(12, 9, kind=kind)
    for tensor in (*cache.keys.values(), *cache.values.values()):
        tensor.copy_(torch.randn(tensor.shape))
    before = [(tensor, tensor.clone()) for held in (cache.keys, cache.values) for tensor in held.values()]
    out = [(0, 3, 1), (0, 4, 2), (0, 5, 3), (0, 9, 7), (0, 10, 8), (0, 2, 5)]
    cache.apply(KVOps(swap_out=tuple(out), copies=((0, 3, 5), (0, 1, 10)), swap_in=((0, 7, 4), (0, 8, 11), (0, 1, 1))))
    expected = {5: 3, 10: 1, 4: 9, 11: 10, 1: 3}  # block: whose it has now
    for tensor, old in before:
        for block in range(12):
            assert torch.equal(tensor[block], old[expected.get(block, block)])
    cache.apply(KVOps(swap_in=tuple((group, host, block) for group, block, host in out)))
    for tensor, old in before:
        for _, block, _ in out:
            assert torch.equal(tensor[block], old[block])


def test_a_swap_takes_few_copies(monkeypatch):
    """Copies are not two a layer and block: one gather, and one copy a run of blocks."""
    cache, _ = kv_cache(40, 40)
    copies = []
    with Copies(copies):
        cache.apply(KVOps(swap_out=tuple((0, 39 - i, 1 + i) for i in range(32))))
    assert copies.count("index_select") == 1
    assert copies.count("copy_") == 1


class Copies(TorchDispatchMode):
    """Notes what is called."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))
