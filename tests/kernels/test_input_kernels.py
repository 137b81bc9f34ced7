"""The step's inputs come from persistent tables and a small difference, as the twin makes them."""

from __future__ import annotations

import pytest
import torch

from octavo_engine.kernels.operations import StepRows
from octavo_engine.kernels.reference_operations import ReferenceOperations

REFERENCE = ReferenceOperations()
BLOCK_SIZE = 16


def step_rows(requests, runs, device):
    """requests: (row, first position, tokens); runs: (table, row, column, values)."""
    ints = lambda values: torch.tensor(values, dtype=torch.int32, device=device)  # noqa: E731
    query_starts, starts = [0], [0]
    for _, _, count in requests:
        query_starts.append(query_starts[-1] + count)
    for *_, values in runs:
        starts.append(starts[-1] + len(values))
    return StepRows(
        rows=ints([row for row, _, _ in requests]),
        query_starts=ints(query_starts),
        num_computed=ints([first for _, first, _ in requests]),
        run_tables=ints([table for table, *_ in runs]),
        run_rows=ints([row for _, row, *_ in runs]),
        run_columns=ints([column for _, _, column, _ in runs]),
        starts=ints(starts),
        values=ints([v for *_, values in runs for v in values]),
    )


@pytest.mark.parametrize("num_groups", [1, 2])
@pytest.mark.parametrize("padding", [0, 3])
def test_inputs_are_the_twins(triton_operations, device, num_groups, padding):
    """A decode, a long prefill that is new, a chunk; new blocks in some tables; rows of padding at the end."""
    requests = [(4, 37, 1), (1, 0, 600), (0, 100, 20), *[(-1, 0, 1)] * padding]
    prompt = torch.randint(0, 1000, (600,)).tolist()
    runs = [(0, 1, 0, prompt), (1, 4, 2, [9]), (1, 1, 0, list(range(50, 88))), (1, 0, 7, [40])]
    if num_groups == 2:
        runs += [(2, 4, 2, [70]), (2, 1, 0, list(range(100, 138)))]
    step = step_rows(requests, runs, device)
    token_ids = torch.randint(0, 1000, (6, 700), dtype=torch.int32, device=device)
    tables = tuple(torch.randint(1, 99, (6, 44), dtype=torch.int32, device=device) for _ in range(num_groups))

    def run(operations):
        own = token_ids.clone(), tuple(t.clone() for t in tables)
        made = operations.build_inputs(*own, step, BLOCK_SIZE, 621 + padding + 2)
        return [made.token_ids, made.positions, made.seq_lens, *made.slots, own[0], *own[1]]

    for got, expected in zip(run(triton_operations), run(REFERENCE), strict=True):
        assert got.dtype == expected.dtype
        assert torch.equal(got, expected)


def test_a_step_without_news_reads_what_the_last_one_drew(triton_operations, device):
    """Drawn tokens go from the sampler to the table to the next forward; no host in between."""
    token_ids = torch.zeros(3, 40, dtype=torch.int32, device=device)
    table = torch.arange(1, 10, dtype=torch.int32, device=device).reshape(3, 3)
    rows = torch.tensor([2, 0, 1, -1], dtype=torch.int32, device=device)
    positions = torch.tensor([5, 17, 3, 0], device=device)
    triton_operations.append_tokens(token_ids, rows, positions, torch.tensor([77, 88, -1, 99], device=device))
    assert token_ids.nonzero().tolist() == [[0, 17], [2, 5]]
    step = step_rows([(2, 5, 1), (0, 17, 1)], [], device)
    made = triton_operations.build_inputs(token_ids, (table,), step, BLOCK_SIZE, 2)
    assert made.token_ids.tolist() == [77, 88]
    assert made.seq_lens.tolist() == [6, 18]
    assert made.slots[0].tolist() == [7 * 16 + 5, 2 * 16 + 1]
