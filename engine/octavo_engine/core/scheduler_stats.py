"""The gauges of a moment, beside the scheduler's counters: what runs and waits, and what that takes."""

from __future__ import annotations

from octavo_engine.core import background
from octavo_engine.core.block_manager import BlockManager
from octavo_engine.core.request_book import RequestBook
from octavo_engine.messages import SchedulerStats


def scheduler_stats(
    requests: RequestBook,
    block_manager: BlockManager,
    *,
    prefix_cache_queries: int,
    prefix_cache_hits: int,
    num_preemptions: int,
    iteration_tokens: list[int],
) -> SchedulerStats:
    """The state of `requests` in the blocks of `block_manager`, with the counters that are given."""
    running, waiting, host = requests.running, requests.waiting, block_manager.host
    adapters = {seq.adapter_id for seq in running if seq.adapter_id} if requests.adapters else set()
    online = background.num_online(running)
    return SchedulerStats(
        num_running=online,
        num_waiting=waiting.num_online,
        num_background_running=len(running) - online,
        num_background_waiting=waiting.num_background,
        kv_usage=block_manager.usage,
        prefix_cache_queries=prefix_cache_queries,
        prefix_cache_hits=prefix_cache_hits,
        num_preemptions=num_preemptions,
        num_swapped=host.num_holders if host else 0,
        swap_usage=host.usage if host else 0.0,
        iteration_tokens=iteration_tokens,
        running_adapters=sorted(adapters),
        waiting_adapters=sorted(requests.adapters.keys() - adapters),
    )
