"""A step's inputs, made on the device from a small difference. Twin: `ReferenceOperations.build_inputs`.

The persistent tables hold every request's tokens and blocks; the host sends what changed, a few hundred numbers.
Copies of a few bytes a token with integer arithmetic: bound by their launches. No shared memory, under 32 registers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.kernels.operations import StepInputs, StepRows
from octavo_engine.kernels.triton.arguments import ANY, cdiv, expect
from octavo_engine.kernels.triton.launch import Launcher

BLOCK = 256


@triton.jit(
    do_not_specialize=["stride", "number"],
    do_not_specialize_on_alignment=["table", "run_tables", "run_rows", "run_columns", "starts", "values"],
)
def take_in_kernel(table, stride, number, run_tables, run_rows, run_columns, starts, values, BLOCK: tl.constexpr):
    """Write run j's values where they belong, if they belong in this table, which is `number`."""
    j = tl.program_id(0)
    if tl.load(run_tables + j) == number:
        start, end = tl.load(starts + j), tl.load(starts + j + 1)
        target = table + tl.load(run_rows + j).to(tl.int64) * stride + tl.load(run_columns + j)
        for at in range(start, end, BLOCK):
            i = at + tl.arange(0, BLOCK)
            tl.store(target + i - start, tl.load(values + i, mask=i < end), mask=i < end)


@triton.jit(
    do_not_specialize=["stride"],
    do_not_specialize_on_alignment=[
        "token_table",
        "rows",
        "query_starts",
        "num_computed",
        "token_ids",
        "positions",
        "seq_lens",
    ],
)
def rows_kernel(
    token_table, stride, rows, query_starts, num_computed, token_ids, positions, seq_lens, BLOCK: tl.constexpr
):
    """A request's tokens and positions, and its length."""
    r = tl.program_id(0)
    row = tl.load(rows + r)
    if row < 0:
        tl.store(seq_lens + r, 0)
    else:
        start, end = tl.load(query_starts + r), tl.load(query_starts + r + 1)
        first = tl.load(num_computed + r)
        source = token_table + row.to(tl.int64) * stride + first
        for at in range(start, end, BLOCK):
            i = at + tl.arange(0, BLOCK)
            tl.store(token_ids + i, tl.load(source + i - start, mask=i < end).to(tl.int64), mask=i < end)
            tl.store(positions + i, (first + i - start).to(tl.int64), mask=i < end)
        tl.store(seq_lens + r, first + end - start)


@triton.jit(
    do_not_specialize=["stride"],
    do_not_specialize_on_alignment=["block_table", "rows", "query_starts", "num_computed", "slots"],
)
def slots_kernel(
    block_table, stride, rows, query_starts, num_computed, slots, BLOCK_SIZE: tl.constexpr, BLOCK: tl.constexpr
):
    """slot = block * BLOCK_SIZE + offset of a request's tokens, in one KV group."""
    r = tl.program_id(0)
    row = tl.load(rows + r)
    if row >= 0:
        start, end = tl.load(query_starts + r), tl.load(query_starts + r + 1)
        first = tl.load(num_computed + r)
        table = block_table + row.to(tl.int64) * stride
        for at in range(start, end, BLOCK):
            i = at + tl.arange(0, BLOCK)
            position = first + i - start
            block = tl.load(table + position // BLOCK_SIZE, mask=i < end, other=0).to(tl.int64)
            tl.store(slots + i, block * BLOCK_SIZE + position % BLOCK_SIZE, mask=i < end)


@triton.jit(
    do_not_specialize=["stride", "width", "n"],
    do_not_specialize_on_alignment=["token_table", "rows", "positions", "drawn"],
)
def append_kernel(token_table, stride, width, rows, positions, drawn, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(rows + i, mask=i < n, other=-1).to(tl.int64)
    token = tl.load(drawn + i, mask=i < n, other=-1)
    position = tl.load(positions + i, mask=i < n, other=0)
    tl.store(
        token_table + row * stride + position, token.to(tl.int32), mask=(row >= 0) & (token >= 0) & (position < width)
    )


def build_inputs(
    launch: Launcher,
    token_ids: Tensor,
    block_tables: tuple[Tensor, ...],
    step: StepRows,
    block_size: int,
    num_tokens: int,
) -> StepInputs:
    """See `Operations.build_inputs`."""
    num_runs, num_requests = step.run_tables.shape[0], step.rows.shape[0]
    for table in (token_ids, *block_tables):
        expect(table, (ANY, ANY), torch.int32, strided=True)
    for numbers in (step.run_tables, step.run_rows, step.run_columns):
        expect(numbers, (num_runs,), torch.int32)
    for numbers in (step.rows, step.num_computed):
        expect(numbers, (num_requests,), torch.int32)
    expect(step.query_starts, (num_requests + 1,), torch.int32)
    expect(step.starts, (num_runs + 1,), torch.int32)
    expect(step.values, (ANY,), torch.int32)
    for i, table in enumerate((token_ids, *block_tables)):
        launch(
            take_in_kernel,
            (num_runs,),
            table,
            table.stride(0),
            i,
            step.run_tables,
            step.run_rows,
            step.run_columns,
            step.starts,
            step.values,
            BLOCK=BLOCK,
            num_warps=1,
        )
    tokens, positions, *slots = torch.zeros(
        2 + len(block_tables), num_tokens, dtype=torch.int64, device=token_ids.device
    ).unbind()
    seq_lens = torch.empty_like(step.rows)
    options = {"BLOCK": BLOCK, "num_warps": 1}
    where = (step.rows, step.query_starts, step.num_computed)
    grid = (num_requests,)
    launch(rows_kernel, grid, token_ids, token_ids.stride(0), *where, tokens, positions, seq_lens, **options)
    for slot, table in zip(slots, block_tables, strict=True):
        launch(slots_kernel, grid, table, table.stride(0), *where, slot, BLOCK_SIZE=block_size, **options)
    return StepInputs(tokens, positions, seq_lens, tuple(slots))


def append_tokens(launch: Launcher, token_ids: Tensor, rows: Tensor, positions: Tensor, drawn: Tensor) -> None:
    """See `Operations.append_tokens`."""
    n, width = rows.shape[0], token_ids.shape[1]
    expect(token_ids, (ANY, ANY), torch.int32, strided=True)
    expect(rows, (n,), torch.int32)
    for wide in (positions, drawn):
        expect(wide, (n,), torch.int64)
    tables = (token_ids, token_ids.stride(0), width)
    launch(append_kernel, (cdiv(n, BLOCK),), *tables, rows, positions, drawn, n, BLOCK=BLOCK, num_warps=1)
