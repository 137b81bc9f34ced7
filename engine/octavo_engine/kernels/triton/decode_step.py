"""The decodes of a step, over the kernels of `decode_attention`: how many requests a launch takes, and what it needs.

Has bounds of the requests' lengths alone; which run is whose is found on the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from octavo_engine.kernels.operations import PagedBatch
from octavo_engine.kernels.triton.arguments import cdiv, next_power_of_2
from octavo_engine.kernels.triton.attention_launch import constants_of, numbers_of, tiles_of
from octavo_engine.kernels.triton.attention_tile import ScoreBiases
from octavo_engine.kernels.triton.decode_attention import decode_kernel, join_kernel, most_runs
from octavo_engine.kernels.triton.launch import BoundLaunch, Launcher
from octavo_engine.kernels.triton.launch_defaults import Parameters
from octavo_models.layers import Attention

FEW_REQUESTS = 16
JOINED_RUNS = 16  # at a time
JOINED_COLUMNS = 256  # of a join's program: heads · their size
MOST_RUNS = 1 << 14  # of a launch, whose results wait in memory to be joined: 4 million keys


@dataclass(frozen=True, slots=True)
class _Launches:
    """The launches of some neighbouring requests, from row `first` of q on."""

    first: int
    grid: tuple[int, ...]
    attend: BoundLaunch
    join_grid: tuple[int, ...]
    join: BoundLaunch | None


class DecodeAttention:
    """Attention of a step's first `batch.num_decodes` requests, for layers of one kind.

    As many requests at a time as MOST_RUNS allows; no request's result depends on which they are. What runs leave to
    be joined lies in one place for all layers, which attend one after the other.
    """

    def __init__(
        self,
        launch: Launcher,
        spec: Attention,
        batch: PagedBatch,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        kv_scales: tuple[float, float],
        biases: ScoreBiases,
    ) -> None:
        """Settle the launches for queries and caches like these, and allocate their scratch."""
        lens = batch.decode_lens or (batch.max_seq_len,) * batch.num_decodes
        chosen = _chosen(launch, spec, q.element_size())
        reach = _reach(batch.max_seq_len, spec, chosen)
        parts = list(launches_of(lens, reach, chosen["SPLIT"]))
        most = max(max_runs for _, _, max_runs in parts)
        maxima, sums = torch.empty(2, most, spec.num_heads, dtype=torch.float32, device=q.device).unbind()
        partial = torch.empty(most, spec.num_heads, spec.head_dim_v, dtype=torch.float32, device=q.device)
        constants = constants_of(spec, q, k_cache, biases)
        block_heads = max(1, JOINED_COLUMNS // constants["BLOCK_DV"])
        self._launches = []
        for first, last, max_runs in parts:
            n, rows, seq_lens = last - first, batch.rows[first:], batch.seq_lens[first:]
            # What both kernels find the runs by. REQUESTS is one of two sizes: one for each power of two would be
            # compiled while serving.
            runs: dict[str, Any] = {
                "REQUESTS": FEW_REQUESTS if n <= FEW_REQUESTS else next_power_of_2(max(n, batch.block_tables.shape[0])),
                "BLOCK_N": chosen["BLOCK_N"],
                "SPLIT": chosen["SPLIT"],
            }
            attend = launch.bind(
                decode_kernel,
                (
                    q,
                    k_cache,
                    v_cache,
                    q,
                    partial,
                    maxima,
                    sums,
                    rows,
                    seq_lens,
                    batch.block_tables,
                    biases.slopes,
                    biases.sinks,
                    n,
                    *numbers_of(spec, batch, k_cache, v_cache, kv_scales),
                ),
                changing=(0, 1, 2, 3, 11),
                apart=(1, 2),
                **constants,
                **runs,
                BLOCK_M=max(16, next_power_of_2(constants["GROUP"])),
                num_warps=chosen["num_warps"],
                # A tile of float8 is half as large: one more is on its way.
                num_stages=chosen["num_stages"] + (k_cache.element_size() == 1),
            )
            join = launch.bind(
                join_kernel,
                (partial, maxima, sums, q, biases.sinks, seq_lens, n),
                changing=(3, 4),
                HEADS=spec.num_heads,
                **{name: constants[name] for name in ("DV", "BLOCK_DV", "SINKS", "WINDOW", "CHUNK")},
                **runs,
                RUNS=JOINED_RUNS,
                BLOCK_HEADS=block_heads,
                num_warps=4,
            )
            programs = min(max_runs * constants["KV_HEADS"], launch.gpu.num_sms * chosen["PROGRAMS_PER_SM"])
            joins = n, cdiv(spec.num_heads, block_heads)
            self._launches.append(_Launches(first, (programs,), attend, joins, join if max_runs > n else None))

    def __call__(self, q: Tensor, k_cache: Tensor, v_cache: Tensor, out: Tensor, sinks: Tensor | None) -> None:
        """Attend, into the first rows of `out`."""
        for part in self._launches:
            queries, results = (q[part.first :], out[part.first :]) if part.first else (q, out)
            part.attend(part.grid, queries, k_cache, v_cache, results, sinks)
            if part.join is not None:  # something was split
                part.join(part.join_grid, results, sinks)


def launches_of(lens: tuple[int, ...], reach: int, split: int) -> Iterator[tuple[int, int, int]]:
    """Requests first … last - 1 of each launch, and the most runs that they have, for requests of these lengths."""
    first, num_runs = 0, 0
    for last, length in enumerate(lens):
        more = most_runs(min(length, reach), split)
        if num_runs + more > MOST_RUNS and last > first:
            yield first, last, num_runs
            first, num_runs = last, 0
        num_runs += more
    yield first, len(lens), num_runs


def scratch_bytes(launch: Launcher, num_requests: int, max_len: int, spec: Attention) -> int:
    """The most that a launch for requests of up to `max_len` takes beside its output, whatever its elements are."""
    most = 0
    for element_size in (2, 4):
        chosen = _chosen(launch, spec, element_size)
        reach = _reach(max_len, spec, chosen)
        longest = most_runs(reach, chosen["SPLIT"])
        runs = min(num_requests * longest, max(MOST_RUNS, longest))
        most = max(most, 4 * runs * spec.num_heads * (spec.head_dim_v + 2))
    return most


def _reach(max_len: int, spec: Attention, chosen: Parameters) -> int:
    """The most keys that a query of a sequence of up to `max_len` tokens sees, and those of the tile that they begin in."""
    spans = [span + chosen["BLOCK_N"] for span in (spec.window, spec.chunk) if span is not None]
    return min(max_len, *spans) if spans else max_len


def _chosen(launch: Launcher, spec: Attention, element_size: int) -> Parameters:
    return launch.tiles(tiles_of("decode", spec), element_size)
