"""Chooses each token's experts, and puts the rows of each expert in one place. Twin: `reference_experts.route`.

Routing: a program a token, its experts' scores in registers; choosing is a reduction for each choice. Some hundred
operations for 2 bytes of logits (bf16): bound by its launch. Arranging: a program an expert, which reads the choices of
all tokens twice, out of L2: num_experts · 8 bytes a choice, 67 MB for 65,536 choices and 128 experts, under 20 µs.
Shared memory: reductions and a histogram of the experts, under 4 KiB. Registers: under 64.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.kernels.triton.arguments import FLOATS, expect, next_power_of_2
from octavo_engine.kernels.triton.launch import Launcher
from octavo_models.layers import Experts, Router

CHUNK = 1024  # choices that are read at once
TINY = tl.constexpr(1e-20)  # in a divisor that may be zero


@triton.jit
def route_kernel(
    logits,
    correction,
    chosen,
    weights,
    scale,
    jitter,
    NUM: tl.constexpr,
    CHOICES: tl.constexpr,
    SCORING: tl.constexpr,
    GROUPS: tl.constexpr,
    TOP_GROUPS: tl.constexpr,
    TOP2: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    HAS_CORRECTION: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_CHOICES: tl.constexpr,
):
    """chosen and weights [n, CHOICES] of logits [n, NUM]; experts are held as [groups, experts of a group]."""
    size: tl.constexpr = NUM // GROUPS
    token = tl.program_id(0).to(tl.int64)
    g, s = tl.arange(0, BLOCK_GROUPS), tl.arange(0, BLOCK_SIZE)
    held = (g < GROUPS)[:, None] & (s < size)[None, :]
    expert = g[:, None] * size + s[None, :]
    x = tl.load(logits + token * NUM + expert, mask=held, other=float("-inf")).to(tl.float32)
    x = tl.where(x == x, x, float("-inf"))  # where all are NaN, there still are experts to read
    scores = x
    if SCORING == "softmax":
        scores = tl.exp(x - tl.max(x))
        scores = scores / tl.sum(scores)
    elif SCORING == "sigmoid":
        scores = tl.sigmoid(x)
    worth = scores
    if HAS_CORRECTION:
        worth += tl.load(correction + expert, mask=held, other=0.0).to(tl.float32)
    worth = tl.where(held & (worth == worth), worth, float("-inf"))
    if TOP_GROUPS < GROUPS:
        of_group = tl.max(worth, 1)
        if TOP2:
            is_best = worth == of_group[:, None]
            first = tl.min(tl.where(is_best, s[None, :], BLOCK_SIZE), 1)
            of_group += tl.max(tl.where(s[None, :] == first[:, None], float("-inf"), worth), 1)
        open_groups = g < GROUPS
        for _ in range(TOP_GROUPS):
            best = tl.max(tl.where(open_groups, of_group, float("-inf")))
            group = tl.min(tl.where(open_groups & (of_group == best), g, BLOCK_GROUPS))
            open_groups = open_groups & (g != group)
        worth = tl.where(open_groups[:, None], float("-inf"), worth)  # the best ones were taken out
    choices = tl.arange(0, BLOCK_CHOICES)
    numbers = tl.zeros([BLOCK_CHOICES], tl.int32)
    found = tl.full([BLOCK_CHOICES], float("-inf"), tl.float32)
    free = held
    for i in range(CHOICES):
        best = tl.max(tl.where(free, worth, float("-inf")))
        number = tl.minimum(tl.min(tl.where(free & (worth == best), expert, NUM)), NUM - 1)
        if SCORING == "sparse_mixer":
            near = free & (best - x <= 2.0 * jitter * tl.maximum(tl.abs(x), best))
            value = 1.0 / tl.sum(tl.where(near, tl.exp(x - best), 0.0))
        else:
            value = tl.sum(tl.where(held & (expert == number), scores, 0.0))
        numbers = tl.where(choices == i, number, numbers)
        found = tl.where(choices == i, value, found)
        free = free & (expert != number)
    if SCORING == "softmax_of_chosen":
        found = tl.exp(found - tl.max(found))
        found = found / tl.sum(found)
    found = tl.where(choices < CHOICES, found, 0.0)
    if RENORMALIZE:
        found = found / (tl.sum(found) + TINY)
    at = token * CHOICES + choices
    tl.store(chosen + at, numbers, mask=choices < CHOICES)
    tl.store(weights + at, found * scale, mask=choices < CHOICES)


@triton.jit(do_not_specialize=["num", "bound", "first_held", "num_held"])
def arrange_kernel(
    chosen,
    order,
    tiles,
    num,
    bound,
    first_held,
    num_held,
    NUM: tl.constexpr,
    BINS: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One expert's part of what `arrange` returns, by the expert's number."""
    e = tl.program_id(0)
    counts = tl.zeros([BINS], tl.int32)
    for at in range(0, num, CHUNK):
        i = at + tl.arange(0, CHUNK)
        counts += tl.histogram(tl.load(chosen + i, mask=i < num, other=0), BINS, mask=i < num)
    bins = tl.arange(0, BINS)
    tiles_of = (counts + ROWS - 1) // ROWS
    own = tl.sum(tl.where(bins == e, counts, 0))
    first = tl.sum(tl.where(bins < e, counts, 0))
    tile = tl.sum(tl.where(bins < e, tiles_of, 0))
    if e == NUM - 1:
        for at in range(tl.sum(tiles_of), bound, CHUNK):
            t = at + tl.arange(0, CHUNK)
            tl.store(tiles + t, -1, mask=t < bound)
    if own > 0:
        for part in range(0, own, ROWS):
            t = tile + part // ROWS
            tl.store(tiles + t, tl.where((e >= first_held) & (e < first_held + num_held), e - first_held, -1))
            tl.store(tiles + bound + t, first + part)
            tl.store(tiles + 2 * bound + t, first + own)
        place = first
        for at in range(0, num, CHUNK):
            i = at + tl.arange(0, CHUNK)
            is_own = tl.load(chosen + i, mask=i < num, other=-1) == e
            tl.store(order + place + tl.cumsum(is_own.to(tl.int32), 0) - 1, i, mask=is_own)
            place += tl.sum(is_own.to(tl.int32))


def route(
    launch: Launcher, logits: Tensor, router: Router, num_chosen: int, correction: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See `Operations.route`."""
    n, num = logits.shape
    expect(logits, (n, num), *FLOATS)
    expect(correction, (num,), *FLOATS)
    chosen = torch.empty(n, num_chosen, dtype=torch.int32, device=logits.device)
    weights = torch.empty(n, num_chosen, dtype=torch.float32, device=logits.device)
    block_groups, block_size = next_power_of_2(router.num_groups), next_power_of_2(num // router.num_groups)
    launch(
        route_kernel,
        (n,),
        logits,
        correction,
        chosen,
        weights,
        router.scale,
        router.jitter,
        NUM=num,
        CHOICES=num_chosen,
        SCORING=router.scoring,
        GROUPS=router.num_groups,
        TOP_GROUPS=router.top_groups,
        TOP2=router.group_by == "top2",
        RENORMALIZE=router.renormalize,
        HAS_CORRECTION=correction is not None,
        BLOCK_GROUPS=block_groups,
        BLOCK_SIZE=block_size,
        BLOCK_CHOICES=next_power_of_2(num_chosen),
        num_warps=min(4, max(1, block_groups * block_size // 128)),
    )
    return chosen, weights


def most_tiles(num_choices: int, num_experts: int, rows: int) -> int:
    """The most tiles of up to `rows` choices that have one expert each: each expert in use may leave one unfilled."""
    used = min(num_choices, num_experts)
    return (num_choices - used) // rows + used


def arrange(launch: Launcher, chosen: Tensor, spec: Experts, rows: int) -> tuple[Tensor, Tensor]:
    """Choices sorted by their expert, and cut into tiles of up to `rows` that have one expert each.

    chosen: [n, k] int32; choice i is chosen.flatten()[i]. Returns `order` [n * k] int32, the choices in the order of
    their experts, and `tiles` [3, most_tiles] int32: of each tile its expert, by its number among those that `spec`
    holds, -1 where there is none or another rank's, its first place in `order`, and the place after its expert's last.
    """
    num, num_experts = chosen.numel(), spec.num_experts
    expect(chosen, (chosen.shape[0], chosen.shape[1]), torch.int32)
    bound = most_tiles(num, num_experts, rows)
    order = torch.empty(num, dtype=torch.int32, device=chosen.device)
    tiles = torch.empty(3, bound, dtype=torch.int32, device=chosen.device)
    bins = next_power_of_2(max(2, num_experts))
    launch(
        arrange_kernel,
        (num_experts if num else 0,),
        chosen,
        order,
        tiles,
        num,
        bound,
        spec.first_held,
        spec.num_held,
        NUM=num_experts,
        BINS=bins,
        ROWS=rows,
        CHUNK=CHUNK,
        num_warps=4,
    )
    return order, tiles
