"""The requests as a device holds them, and how a step's difference gets there.

Owns the persistent tables (tokens, blocks) with a row for each request that runs, and the host's copy of what is not
there yet. A step sends one short list of numbers; its inputs are made from them on the device. Tokens that were drawn
are in the tables before the host has read them, so a step may follow another that the host has not waited
for. Independent of layers, weights and sampling.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from octavo_engine.core.outputs import NewRequest, SchedulerOutput
from octavo_engine.executors.torch.adapted_rows import AdaptedRows
from octavo_engine.executors.torch.decoder import DecoderInputs
from octavo_engine.executors.torch.device import moved
from octavo_engine.kernels.adapter_weights import AdapterRows
from octavo_engine.kernels.operations import Operations, PagedBatch, StepRows
from octavo_engine.sampling_params import SamplingParams

MOST_VALUES = 1 << 22  # new numbers that a step brings along; more of them go ahead of it
TOKENS = 0  # the table of tokens; that of KV group g is 1 + g


@dataclass(slots=True, eq=False)
class RequestState:
    """The host's copy of one request. The last tokens that were drawn may not be in `token_ids` yet."""

    request_id: str
    token_ids: list[int]  # the prompt and what was read of the tokens drawn since
    num_prompt_tokens: int
    sampling: SamplingParams
    block_tables: list[list[int]]
    num_computed_tokens: int
    second_segment: int = 0  # as in `NewRequest`
    adapter_id: int = 0
    error: str | None = None
    row: int | None = None  # of the device's tables
    allowed: Tensor | None = None  # [ceil(vocab / 32)] int32, on the device once a step has drawn with it
    bias: Tensor | None = None  # [2, n] float64: tokens and values, likewise
    count_slot: int = -1  # of the table of `PenaltyCounts`, if that says so too
    num_counted: int = 0  # tokens that its counts are of

    def take(self, position: int, token: int) -> None:
        """The token drawn for `position`; what was drawn for it before, or after it, is void."""
        if position == len(self.token_ids):
            self.token_ids.append(token)
        else:
            self.token_ids[position:] = [token]


@dataclass(frozen=True, slots=True)
class Run:
    """New numbers of one row of one table, from `column` on."""

    table: int
    row: int
    column: int
    values: list[int]


@dataclass(frozen=True, slots=True)
class StepBatch:
    """A step's requests in the order of their rows: those of a single token first, as attention needs them."""

    states: list[RequestState]
    counts: list[int]  # scheduled tokens
    seq_lens: list[int]  # tokens of each request, those of this step included
    runs: list[Run]
    drawing: list[int]  # which of `states` draw a token, by number
    errors: dict[str, str]  # scheduled, but can't be run
    adapted: AdaptedRows | None = None

    @property
    def num_requests(self) -> int:
        return len(self.states)

    @property
    def num_values(self) -> int:
        """New numbers for the tables."""
        return sum(len(run.values) for run in self.runs)

    @property
    def num_tokens(self) -> int:
        return sum(self.counts)

    def token_types(self, device: torch.device) -> Tensor | None:
        """[num_tokens] int64: 1 for a token of a second segment; None if no prompt has one."""
        if not any(s.second_segment for s in self.states):
            return None
        types = []
        for state, count in zip(self.states, self.counts, strict=True):
            first = min(state.second_segment or count, count)
            types += [0] * first + [1] * (count - first)
        return moved(torch.tensor(types, dtype=torch.int64), device)

    @property
    def num_decodes(self) -> int:
        return self.counts.count(1)


@dataclass(frozen=True, slots=True)
class StepLayout:
    """The layout of a step's numbers in one flat int32 buffer, which reaches the device in one copy.

    Padding: requests of row -1 with one token, runs of table -1 without values, adapters' tiles of slot -1.
    """

    num_requests: int
    num_runs: int
    num_values: int
    num_drawing: int
    num_adapted: int = 0  # rows that use adapters
    num_tiles: int = 0
    tile_rows: int = 0

    @property
    def sizes(self) -> tuple[int, ...]:
        n, runs = self.num_requests, self.num_runs
        adapters = self.num_adapted, 3 * self.num_tiles
        return n, n + 1, n, runs, runs, runs, runs + 1, self.num_values, self.num_drawing, *adapters

    @classmethod
    def of(cls, batch: StepBatch) -> StepLayout:
        """The smallest that holds `batch`."""
        adapted = batch.adapted
        tiles = (
            () if adapted is None else (len(adapted.order), len(adapted.tiles(adapted.tile_rows)), adapted.tile_rows)
        )
        return cls(batch.num_requests, len(batch.runs), batch.num_values, len(batch.drawing), *tiles)

    def pack(self, batch: StepBatch) -> array[int]:
        """The numbers of `batch`, padded to this layout."""
        padding, no_runs = [0] * (self.num_requests - batch.num_requests), [0] * (self.num_runs - len(batch.runs))
        values = [v for run in batch.runs for v in run.values]
        order = [] if batch.adapted is None else batch.adapted.order
        tiles = [] if batch.adapted is None else batch.adapted.tiles(self.tile_rows)
        tiles += [(-1, 0, 0)] * (self.num_tiles - len(tiles))
        columns = (
            [-1 if s.row is None else s.row for s in batch.states] + [-1 for _ in padding],
            _sums([*batch.counts, *[1 for _ in padding]]),
            [s.num_computed_tokens for s in batch.states] + padding,
            [run.table for run in batch.runs] + [-1 for _ in no_runs],
            [run.row for run in batch.runs] + no_runs,
            [run.column for run in batch.runs] + no_runs,
            _sums([len(run.values) for run in batch.runs] + no_runs),
            values + [0] * (self.num_values - len(values)),
            batch.drawing + list(range(len(batch.drawing), self.num_drawing)),
            order + [0] * (self.num_adapted - len(order)),
            [tile[i] for i in range(3) for tile in tiles],
        )
        assert tuple(map(len, columns)) == self.sizes
        numbers = array("i")
        for column in columns:
            numbers.fromlist(column)
        return numbers

    def split(self, buffer: Tensor) -> tuple[StepRows, Tensor]:
        """Views of a packed buffer: the step's rows, and the numbers of the requests that draw."""
        *rows, drawing, _, _ = torch.split(buffer, list(self.sizes))
        return StepRows(*rows), drawing

    def adapter_rows(self, buffer: Tensor) -> AdapterRows | None:
        """Views of a packed buffer: the rows that use adapters; None where there is no room for any."""
        if not self.num_tiles:
            return None
        *_, order, tiles = torch.split(buffer, list(self.sizes))
        return AdapterRows(order, tiles.view(3, -1), self.tile_rows)


class PersistentBatch:
    """Every known request; up to `max_requests` of them have a row in the device's tables."""

    def __init__(
        self,
        ops: Operations,
        *,
        vocab_size: int,
        block_size: int,
        num_groups: int,
        max_requests: int,
        max_len: int,
        device: torch.device,
        has_adapter: Callable[[int], bool] = lambda _: False,
    ) -> None:
        self._ops = ops
        self._has_adapter = has_adapter
        self._vocab_size = vocab_size
        self._block_size = block_size
        self.device = device
        self.states: dict[str, RequestState] = {}
        self._owners: list[RequestState | None] = [None] * max_requests
        self._free = list(range(max_requests - 1, -1, -1))
        self.max_len = max_len
        self.token_ids = torch.zeros(max_requests, max_len, dtype=torch.int32, device=device)
        blocks = -(-max_len // block_size)
        self.block_tables = tuple(
            torch.zeros(max_requests, blocks, dtype=torch.int32, device=device) for _ in range(num_groups)
        )

    def apply(self, step: SchedulerOutput) -> StepBatch:
        """Take in what changed since the last step: who left, who came, which blocks were added; and what that means
        for the device. Requests with an error of their own are left out of the batch.
        """
        for request_id in step.finished_ids:
            self._drop(request_id)
        counts = step.num_scheduled_tokens
        runs: list[Run] = []
        for new in step.new:
            self._drop(new.request_id)
            state = self._state(new)
            self.states[new.request_id] = state
            self._place(state, counts, runs)
        for continued in step.continued:
            state = self.states[continued.request_id]
            state.num_computed_tokens = continued.num_computed_tokens
            if continued.resumed:
                state.block_tables = [list(ids) for ids in continued.block_ids]
                if state.row is not None:
                    runs += self._table_runs(state)
            elif any(continued.block_ids):  # one decode in block_size gets a block
                for g, (table, added) in enumerate(zip(state.block_tables, continued.block_ids, strict=True)):
                    if added and state.row is not None:
                        runs.append(Run(1 + g, state.row, len(table), added))
                    table.extend(added)
            if state.row is None:
                self._place(state, counts, runs)
        scheduled = [self.states[request_id] for request_id in counts]
        errors = {s.request_id: s.error for s in scheduled if s.error is not None}
        runnable = [s for s in scheduled if s.error is None] if errors else scheduled
        tokens = [counts[s.request_id] for s in runnable]
        if tokens.count(1) < len(tokens):
            runnable.sort(key=lambda s: counts[s.request_id] > 1)
            tokens = [counts[s.request_id] for s in runnable]
        drawing = [i for i, s in enumerate(runnable) if s.request_id in step.samples]
        lengths = [s.num_computed_tokens + count for s, count in zip(runnable, tokens, strict=True)]
        return StepBatch(runnable, tokens, lengths, runs, drawing, errors)

    def send(self, runs: list[Run]) -> None:
        """Take in new numbers ahead of a step, a bounded number of them at a time."""
        first, total = 0, 0
        for i, run in enumerate(runs):
            if total + len(run.values) > MOST_VALUES and i > first:
                self._send(runs[first:i])
                first, total = i, 0
            total += len(run.values)
        self._send(runs[first:])
        runs.clear()

    def _send(self, runs: list[Run]) -> None:
        batch = StepBatch([], [], [], runs, [], {})
        layout = StepLayout.of(batch)
        self.write_runs(layout.split(to_device(layout.pack(batch), self.device))[0])

    def write_runs(self, rows: StepRows) -> None:
        """Write the runs of `rows` to the tables, and nothing else."""
        none = rows.rows[:0]
        alone = StepRows(none, rows.query_starts[:1], none, *(getattr(rows, name) for name in RUN_FIELDS))
        self._ops.build_inputs(self.token_ids, self.block_tables, alone, self._block_size, 0)

    def inputs(
        self, rows: StepRows, *, num_tokens: int, decode_lens: tuple[int, ...], max_query_len: int, max_seq_len: int
    ) -> tuple[DecoderInputs, Tensor]:
        """The decoder's inputs, made on the device, and the requests' lengths: [num_requests] int32.

        decode_lens: of the requests with one token each, which come first, or bounds of them.
        """
        made = self._ops.build_inputs(self.token_ids, self.block_tables, rows, self._block_size, num_tokens)
        groups = tuple(
            PagedBatch(
                rows.rows,
                rows.query_starts,
                made.seq_lens,
                table,
                slots,
                len(decode_lens),
                max_query_len,
                max_seq_len,
                decode_lens,
            )
            for table, slots in zip(self.block_tables, made.slots, strict=True)
        )
        return DecoderInputs(made.token_ids, made.positions, groups), made.seq_lens

    def clear(self) -> None:
        for request_id in list(self.states):
            self._drop(request_id)

    def _state(self, new: NewRequest) -> RequestState:
        return RequestState(
            request_id=new.request_id,
            token_ids=[*new.token_ids, *new.output_token_ids],
            num_prompt_tokens=len(new.token_ids),
            sampling=new.sampling,
            block_tables=[list(ids) for ids in new.block_ids],
            num_computed_tokens=new.num_computed_tokens,
            second_segment=new.second_segment,
            adapter_id=new.adapter_id,
            error=self._refusal(new),
        )

    def _drop(self, request_id: str) -> None:
        state = self.states.pop(request_id, None)
        if state is not None and state.row is not None:
            self._free.append(state.row)
            self._owners[state.row] = None
            state.row = None

    def _place(self, state: RequestState, scheduled: Iterable[str], runs: list[Run]) -> None:
        """Give `state` a row, if need be that of one that does not run in this step, and send all that it holds."""
        if not self._free:
            scheduled = set(scheduled)
            other = next(s for s in self._owners if s is not None and s.request_id not in scheduled)
            assert other.row is not None
            self._free.append(other.row)
            other.row = None
        state.row = self._free.pop()
        self._owners[state.row] = state
        runs.append(Run(TOKENS, state.row, 0, state.token_ids[:]))
        runs += self._table_runs(state)

    @staticmethod
    def _table_runs(state: RequestState) -> list[Run]:
        assert state.row is not None
        return [Run(1 + g, state.row, 0, table[:]) for g, table in enumerate(state.block_tables) if table]

    def _refusal(self, new: NewRequest) -> str | None:
        if new.adapter_id and not self._has_adapter(new.adapter_id):
            return f"adapter {new.adapter_id} is not loaded: load it again"
        wrong = next((t for t in new.token_ids if not 0 <= t < self._vocab_size), None)
        return None if wrong is None else f"token {wrong} is outside the vocabulary of {self._vocab_size}"


RUN_FIELDS = ("run_tables", "run_rows", "run_columns", "starts", "values")


def _sums(counts: list[int]) -> list[int]:
    """0, and the sum of the first, the first two, … of `counts`."""
    return list(accumulate(counts, initial=0))


def to_device(numbers: array[int], device: torch.device) -> Tensor:
    """A flat int32 tensor, without waiting."""
    return moved(torch.frombuffer(numbers, dtype=torch.int32), device)
