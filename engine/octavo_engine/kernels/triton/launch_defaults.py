"""Launch parameters that ship: one table a generation, reasoned from its limits, not measured (see docs/LOG.md).

A name is a kernel and the shape that decides: "prefill.D" and "decode.D" by head size, "packed.M", "float8.M",
"experts.M", "shrink.M" and "expand.M" by the number of rows that a tile takes. What the limits say:

All: with three stages a tile of keys and values is on its way while the one before it is used; with two nothing is.
sm_80 (A100): 164 KiB of shared memory an SM, 163 a program; loads are asynchronous copies, so depth comes from stages.
sm_89 (L4, L40S, RTX 40): 100 KiB an SM, 99 a program: tiles are halved. Memory is slow beside arithmetic (L4:
    300 GB/s), so decode needs fewer, longer runs and its two programs an SM are enough.
sm_90 (H100, H200): 228 KiB an SM, 227 a program; products of 64 rows by 4 warps are the unit of its matrix
    instruction, so 128 rows take 8 warps. Memory needs 32 to 48 KiB in flight an SM (`residency`): three stages.
sm_100 (B200): as sm_90 in size. Products' accumulators leave the register file, so 4 warps feed 128 rows of them; that
    of attention comes back to be rescaled, and spills on 4 warps.
"""

from __future__ import annotations

from collections.abc import Mapping

Parameters = Mapping[str, int]
Table = Mapping[str, Parameters]


def _prefill(m: int, n: int, warps: int, stages: int) -> Parameters:
    return {"BLOCK_M": m, "BLOCK_N": n, "num_warps": warps, "num_stages": stages}


def _decode(n: int, split: int, programs: int, stages: int) -> Parameters:
    # 16 rows are all that decode has, and 4 warps divide the keys of a tile between them.
    return {"BLOCK_N": n, "SPLIT": split, "PROGRAMS_PER_SM": programs, "num_warps": 4, "num_stages": stages}


def _product(m: int, n: int, k: int, split_k: int, warps: int, stages: int) -> Parameters:
    return {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "SPLIT_K": split_k, "num_warps": warps, "num_stages": stages}


def _experts(m: int, n: int, k: int, warps: int, stages: int) -> Parameters:
    return {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "num_warps": warps, "num_stages": stages}


# With few rows a product streams weights: narrow tiles and a split of K put every SM to work (4,096 columns make 64
# tiles of 64, under half of an A100's or H100's SMs). With many, tiles are square, and K is whole above 256 rows.
_STREAMING = {
    "packed.16": _product(16, 64, 128, 4, 4, 4),
    "packed.64": _product(64, 64, 64, 2, 4, 3),
    "packed.128": _product(128, 128, 64, 4, 8, 3),
    "float8.16": _product(16, 64, 256, 4, 4, 3),
    "float8.64": _product(64, 64, 128, 2, 4, 3),
}

# Gate and up are made at once: a stage has two tiles of weights. With few rows tiles are narrow, for a few experts of some
# 1,000 rows each must keep every SM at work.
_EXPERTS = {
    "experts.16": _experts(16, 32, 128, 4, 4),
    "experts.64": _experts(64, 64, 64, 4, 3),
    "experts.128": _experts(128, 64, 64, 8, 3),
}

# Adapters: few rows stream an adapter's matrices, of which a tile has 16 rows of `a` or 128 of `b`; K is split, for eight
# adapters of rank 16 would else make 8 to 24 programs. With many rows a tile has all of a product's `a` up to 64 rows.
_ADAPTERS = {
    "shrink.16": {"BLOCK_M": 16, "BLOCK_R": 16, "BLOCK_K": 128, "SPLIT_K": 8, "num_warps": 4, "num_stages": 3},
    "shrink.64": {"BLOCK_M": 64, "BLOCK_R": 64, "BLOCK_K": 64, "SPLIT_K": 1, "num_warps": 4, "num_stages": 3},
    "expand.16": {"BLOCK_M": 16, "BLOCK_N": 128, "num_warps": 4, "num_stages": 2},
    "expand.64": {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 4, "num_stages": 2},
}

# Faster memory: of two programs an SM, 20 KiB of words and scales each have to be on their way.
_STREAMING_90 = {
    **_STREAMING,
    "packed.16": _product(16, 64, 128, 4, 4, 6),
    "packed.64": _product(64, 64, 128, 2, 4, 3),
}

DEFAULTS: Mapping[int, Table] = {
    80: {
        **_ADAPTERS,
        **_EXPERTS,
        "prefill.64": _prefill(128, 64, 8, 3),
        "prefill.128": _prefill(128, 32, 8, 3),
        "prefill.256": _prefill(64, 32, 8, 3),
        "prefill.512": _prefill(32, 16, 8, 3),
        "decode.64": _decode(64, 256, 4, 3),
        "decode.128": _decode(64, 256, 2, 3),
        "decode.256": _decode(32, 256, 2, 3),
        "decode.512": _decode(16, 256, 1, 3),
        "prefill.latent": _prefill(32, 32, 8, 3),
        "decode.latent": _decode(32, 256, 1, 3),
        **_STREAMING,
        "float8.128": _product(128, 64, 64, 1, 8, 3),  # for its twin's sake only: refused before it is launched
    },
    89: {
        **_ADAPTERS,
        **_EXPERTS,
        "prefill.64": _prefill(128, 64, 8, 3),
        "prefill.128": _prefill(128, 32, 8, 3),
        "prefill.256": _prefill(64, 16, 8, 3),
        "prefill.512": _prefill(16, 16, 4, 2),
        "decode.64": _decode(64, 512, 2, 3),
        "decode.128": _decode(32, 512, 2, 3),
        "decode.256": _decode(16, 512, 2, 3),
        "decode.512": _decode(16, 512, 1, 2),
        "prefill.latent": _prefill(32, 16, 8, 3),
        "decode.latent": _decode(16, 512, 1, 3),
        **_STREAMING,
        "float8.128": _product(128, 128, 64, 1, 8, 3),
    },
    90: {
        **_ADAPTERS,
        **_EXPERTS,
        "prefill.64": _prefill(128, 64, 8, 3),
        "prefill.128": _prefill(128, 64, 8, 3),
        "prefill.256": _prefill(64, 32, 8, 3),
        "prefill.512": _prefill(32, 32, 8, 2),
        "decode.64": _decode(64, 256, 4, 3),
        "decode.128": _decode(64, 256, 3, 3),
        "decode.256": _decode(32, 256, 2, 3),
        "decode.512": _decode(16, 256, 1, 3),
        "prefill.latent": _prefill(32, 32, 8, 3),
        "decode.latent": _decode(32, 256, 1, 3),
        **_STREAMING_90,
        "float8.128": _product(128, 128, 128, 1, 8, 3),
    },
    100: {
        **_ADAPTERS,
        **_EXPERTS,
        "prefill.64": _prefill(128, 64, 8, 3),
        "prefill.128": _prefill(128, 64, 8, 3),
        "prefill.256": _prefill(64, 32, 8, 3),
        "prefill.512": _prefill(64, 16, 8, 3),
        "decode.64": _decode(64, 256, 4, 3),
        "decode.128": _decode(64, 256, 3, 3),
        "decode.256": _decode(32, 256, 2, 3),
        "decode.512": _decode(16, 256, 1, 3),
        "prefill.latent": _prefill(64, 32, 8, 3),
        "decode.latent": _decode(32, 256, 1, 3),
        **_STREAMING_90,
        "packed.128": _product(128, 128, 64, 4, 4, 3),
        "float8.128": _product(128, 128, 128, 1, 4, 3),
    },
}
