"""What a step's forward reads: flat token rows with their positions, slots and block tables.

Owns each request's tokens and tables between steps, as the scheduler's differential output leaves them to the
executor. Knows nothing of layers or weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from octavo_engine.core.outputs import SchedulerOutput
from octavo_engine.sampling_params import SamplingParams


@dataclass(slots=True)
class RequestState:
    """One request as the executor knows it. `token_ids` holds the prompt and every token drawn since."""

    token_ids: list[int]
    num_prompt_tokens: int
    sampling: SamplingParams
    block_tables: list[list[int]]
    num_computed_tokens: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class InputBatch:
    """A step's rows. Request r has the rows query_starts[r] … query_starts[r + 1] - 1, the last of seq_lens[r]."""

    request_ids: list[str]
    token_ids: Tensor  # [num_tokens]
    positions: Tensor  # [num_tokens]
    query_starts: list[int]  # [num_requests + 1]
    seq_lens: list[int]  # [num_requests], tokens of this step included
    slots: list[Tensor]  # a KV group: [num_tokens]
    block_tables: list[list[Tensor]]  # a KV group, a request: [num_pages]


@dataclass(slots=True)
class RequestStates:
    """All requests that the executor knows, by id."""

    vocab_size: int
    block_size: int
    num_groups: int  # of the KV layout
    device: torch.device
    states: dict[str, RequestState] = field(default_factory=dict)

    def apply(self, step: SchedulerOutput) -> None:
        """Take in what changed since the last step: who left, who came, and which pages were added."""
        for request_id in step.finished_ids:
            self.states.pop(request_id, None)
        for new in step.new:
            self.states[new.request_id] = RequestState(
                token_ids=[*new.token_ids, *new.output_token_ids],
                num_prompt_tokens=len(new.token_ids),
                sampling=new.sampling,
                block_tables=[list(ids) for ids in new.block_ids],
                num_computed_tokens=new.num_computed_tokens,
                error=self._refusal(new.token_ids),
            )
        for continued in step.continued:
            state = self.states[continued.request_id]
            if continued.resumed:
                state.block_tables = [list(ids) for ids in continued.block_ids]
            else:
                for table, added in zip(state.block_tables, continued.block_ids, strict=True):
                    table.extend(added)
            state.num_computed_tokens = continued.num_computed_tokens

    def batch(self, step: SchedulerOutput, without: frozenset[str] = frozenset()) -> InputBatch:
        """The rows of this step, in the order of `num_scheduled_tokens`, except for `without`.

        Requests with an error are left out too.
        """
        ids = [r for r in step.num_scheduled_tokens if self.states[r].error is None and r not in without]
        tokens: list[int] = []
        positions: list[int] = []
        query_starts, seq_lens = [0], []
        for request_id in ids:
            state, count = self.states[request_id], step.num_scheduled_tokens[request_id]
            first, end = state.num_computed_tokens, state.num_computed_tokens + count
            assert end <= len(state.token_ids), f"{request_id}: {end} tokens scheduled, {len(state.token_ids)} known"
            tokens += state.token_ids[first:end]
            positions += range(first, end)
            query_starts.append(query_starts[-1] + count)
            seq_lens.append(end)
        tables = [[self._tensor(self.states[r].block_tables[g]) for r in ids] for g in range(self.num_groups)]
        position_rows = self._tensor(positions)
        return InputBatch(
            request_ids=ids,
            token_ids=self._tensor(tokens),
            positions=position_rows,
            query_starts=query_starts,
            seq_lens=seq_lens,
            slots=[self._slots(position_rows, query_starts, group) for group in tables],
            block_tables=tables,
        )

    def _slots(self, positions: Tensor, query_starts: list[int], tables: list[Tensor]) -> Tensor:
        """slot = block * block_size + offset of each row: [num_tokens]."""
        slots = torch.empty_like(positions)
        for r, table in enumerate(tables):
            rows = slice(query_starts[r], query_starts[r + 1])
            at = positions[rows]
            slots[rows] = table[at // self.block_size] * self.block_size + at % self.block_size
        return slots

    def _tensor(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)

    def _refusal(self, token_ids: list[int]) -> str | None:
        wrong = next((t for t in token_ids if not 0 <= t < self.vocab_size), None)
        return None if wrong is None else f"token {wrong} is outside the vocabulary of {self.vocab_size}"
