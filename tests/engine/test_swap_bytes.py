"""Swap space beside a GPU: page-locked host memory, so never more than the container, or the machine, has left."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from octavo_testing.fake_executor import FakeExecutor

from octavo_engine.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from octavo_engine.core.memory_limit import MemoryLimit
from octavo_engine.engine import kv_sizing
from octavo_engine.engine.engine_core import EngineCore
from octavo_engine.errors import ConfigError

GIB = 1 << 30


def config(swap_space_gib: float | None = None) -> EngineConfig:
    model = ModelConfig(model="fake", served_model_names=("fake",), max_model_len=64)
    scheduler = SchedulerConfig(max_num_seqs=8, max_num_batched_tokens=32)
    return EngineConfig(
        model=model, cache=CacheConfig(block_size=4, swap_space_gib=swap_space_gib), scheduler=scheduler
    )


@pytest.fixture
def host(monkeypatch):
    """Sets the container's limit, and what the machine has available; 0: not known."""

    def sets(limit: MemoryLimit | None, available: int = 0) -> None:
        monkeypatch.setattr(kv_sizing, "container_limit", lambda: limit)
        monkeypatch.setattr(kv_sizing, "available_memory", lambda: available)

    return sets


def beside_a_gpu(ranks: int = 1) -> SimpleNamespace:
    return SimpleNamespace(kv_bytes=20 * GIB, weight_bytes=GIB, sharers=ranks)


@pytest.mark.parametrize(
    ("limit", "available", "ranks", "expected"),
    [
        (MemoryLimit(64 * GIB, used=4 * GIB), 100 * GIB, 1, 4 * GIB),
        (MemoryLimit(6 * GIB, used=2 * GIB), 100 * GIB, 1, 2 * GIB),
        (MemoryLimit(6 * GIB, used=2 * GIB), 100 * GIB, 4, GIB // 2),
        (MemoryLimit(6 * GIB, used=6 * GIB), 100 * GIB, 1, 0),
        (MemoryLimit(6 * GIB, used=7 * GIB), 100 * GIB, 1, 0),
        (None, 100 * GIB, 1, 4 * GIB),
        (None, 6 * GIB, 2, 3 * GIB // 2),
        (None, 0, 1, 4 * GIB),
    ],
)
def test_by_default_it_is_4_gib_or_half_of_what_is_left(host, limit, available, ranks, expected) -> None:
    """The half is one of the container's limit where there is one, shared by its ranks."""
    host(limit, available)
    assert kv_sizing.swap_bytes_of(config(), beside_a_gpu(ranks)) == expected


@pytest.mark.parametrize(
    ("limit", "available", "words"),
    [
        (MemoryLimit(10 * GIB, used=2 * GIB), 100 * GIB, "8.00 GiB are left of the container's limit of 10.00 GiB"),
        (None, 8 * GIB, "8.00 GiB are left of this machine's"),
    ],
)
def test_more_than_is_left_is_refused_with_the_numbers(host, limit, available, words) -> None:
    """What was set is taken to the byte or not at all: the kernel would kill the process."""
    host(limit, available)
    assert kv_sizing.swap_bytes_of(config(2.0), beside_a_gpu(4)) == 2 * GIB
    assert kv_sizing.swap_bytes_of(config(0.0), beside_a_gpu(4)) == 0
    with pytest.raises(
        ConfigError, match=rf"--swap-space 2.5 takes 10.00 GiB of host memory over 4 ranks, and {words}"
    ):
        kv_sizing.swap_bytes_of(config(2.5), beside_a_gpu(4))


def test_the_executor_gets_as_many_host_blocks_as_the_limit_allows(host) -> None:
    """The null block comes on top."""
    host(MemoryLimit(6 * GIB, used=2 * GIB))
    executor = FakeExecutor(kv_bytes=20 << 20, block_bytes=1 << 20)
    EngineCore(config(), executor)
    assert executor.num_host_blocks == (2048 + 1,)
