"""The native executor shows its progress to other processes: memory that it holds, and that a step moves on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from native_executors import SPECS, Sequences, config_of, files_of, request, start

from octavo_engine.executors.native.executor import NativeExecutor
from octavo_models import from_hf_config


def test_memory_of_blocks_is_held_once_they_are_touched(tmp_path):
    """What isn't there is missed at the start; before, the system has only promised it."""
    spec = from_hf_config(SPECS["gemma3"])
    executor = NativeExecutor(config_of(), spec, files_of(tmp_path))
    groups = executor.load().layout.groups
    counts = tuple((32 << 20) // group.block_bytes for group in groups)
    executor.init_kv(counts, counts)
    before = resident_bytes()
    executor.touch_kv()
    expected = 2 * sum(count * group.block_bytes for count, group in zip(counts, groups, strict=True))
    assert resident_bytes() - before > 0.9 * expected
    executor.close()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_step_counts_up_as_it_moves_through_the_layers(tmp_path):
    """Another process sees by it that a slow step is alive."""
    spec = from_hf_config(SPECS["llama"])
    executor = start(NativeExecutor, spec, tmp_path)
    beats = np.zeros(1, np.uint64)
    executor.beat_into(beats)
    Sequences(executor, len(spec.kv_layout(16, "f32").groups)).step({"a": 5}, request("a", [1, 2, 3, 4, 5]))
    assert beats[0] > 5 * len(spec.layers)
    executor.close()
