"""Measures what it takes to move blocks to host memory and back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from octavo_engine.core.outputs import KVOps

if TYPE_CHECKING:
    from octavo_engine.executors.executor import Executor

PROBED_BLOCKS = 16  # of each group


def block_seconds(executor: Executor, num_blocks: Sequence[int], num_host_blocks: Sequence[int]) -> list[float]:
    """Seconds that a block of each group takes to host memory and back, measured on blocks that are not in use yet."""
    seconds = []
    for group, counts in enumerate(zip(num_blocks, num_host_blocks, strict=False)):
        moves = tuple((group, block, block) for block in range(1, min(*counts, PROBED_BLOCKS + 1)))
        there_and_back = KVOps(swap_in=moves, swap_out=moves)
        executor.move_blocks(there_and_back)  # touches the memory for the first time
        start = time.perf_counter()
        executor.move_blocks(there_and_back)
        seconds.append((time.perf_counter() - start) / max(1, len(moves)))
    return seconds
