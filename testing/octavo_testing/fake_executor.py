"""An executor without a model that keeps real books of its blocks, so that a scheduler's mistake shows as a wrong token.

A token's "KV" is a digest of everything up to it. It is written to the block and slot that the step names, in every
group; a drawn token is computed from what is read back through the block tables, within each group's window. A block
that was freed early, shared wrongly or never filled is noticed at once: `ContractViolation` passes through the
engine core, which handles every ordinary exception.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from octavo_engine.config import AdapterConfig, AdapterModule, CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from octavo_engine.core.capacity import sequence_bytes
from octavo_engine.core.outputs import KVOps, NewRequest, SchedulerOutput, StepOutput
from octavo_engine.engine.engine_core import EngineCore
from octavo_engine.engine.probe import PROBE
from octavo_engine.executors.executor import Capabilities, Capacity, Executor, StepHandle
from octavo_engine.messages import TokenLogprob
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.weights.adapter import Adapter
from octavo_models.spec import KVGroup, KVLayout

MODULUS = (1 << 61) - 1
UNWRITTEN = -1


class ContractViolation(BaseException):
    """The step is not what the contract allows. Not an `Exception`: nothing may handle it."""


class InjectedError(RuntimeError):
    """A failure that a test asked for."""


def digest(parent: int, token: int) -> int:
    """A token's KV: it names the token and all before it."""
    return (parent * 1_000_003 + token + 12_345) % MODULUS


def digests(token_ids: list[int], adapter_id: int = 0) -> list[int]:
    """The KV of each token."""
    result, value = [], 7_919 + adapter_id
    for token in token_ids:
        value = digest(value, token)
        result.append(value)
    return result


def draw(
    seen: int, sampling: SamplingParams, num_output_tokens: int, vocab_size: int, mask: bytes | None = None
) -> int | None:
    """The next token after a context, with the bans of `min_tokens`; with a mask one of its tokens, if there is one."""
    banned = {*sampling.eos_token_ids, *sampling.stop_token_ids} if num_output_tokens < sampling.min_tokens else set()
    allowed = range(vocab_size) if mask is None else [i for i in range(8 * len(mask)) if mask[i // 8] >> i % 8 & 1]
    if banned.issuperset(allowed):
        return None
    value = seen + sampling.seed
    while True:
        value = value * 6_364_136_223_846_793_005 % MODULUS
        token = allowed[(value >> 20) % len(allowed)]
        if token not in banned:
            return token


def lonely_run(
    prompt: list[int], sampling: SamplingParams, *, max_model_len: int, vocab_size: int, adapter_id: int = 0
) -> tuple[list[int], str]:
    """Output tokens and finish reason of a request that runs alone, by the rules and without any engine."""
    tokens = list(prompt)
    value = digests(prompt, adapter_id)[-1]
    stop = {*sampling.stop_token_ids} | (set() if sampling.ignore_eos else {*sampling.eos_token_ids})
    while len(tokens) - len(prompt) < sampling.max_tokens and len(tokens) < max_model_len:
        output = tokens[len(prompt) :]
        token = draw(value, sampling, len(output), vocab_size)
        tokens.append(token)
        value = digest(value, token)
        if token in stop and len(output) + 1 >= sampling.min_tokens:
            return tokens[len(prompt) :], "stop"
    return tokens[len(prompt) :], "length"


def core_over(
    executor: FakeExecutor,
    *,
    max_model_len: int = 64,
    spare_bytes: int = 1000,
    caching: bool = True,
    swap_bytes: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    adapters: int = 3,
    max_loras: int = 2,
    max_cpu_loras: int = 4,
    read_adapter: Callable[[str, int], Adapter] = lambda _path, adapter_id: Adapter(adapter_id, ()),
    **scheduler,
) -> EngineCore:
    """An engine core whose blocks hold one sequence of `max_model_len` and `spare_bytes` more.

    It begins with adapters 1 to `adapters`, whose paths are their ids.
    """
    settings = SchedulerConfig(**scheduler)
    needed = sequence_bytes(executor.layout, max_model_len, settings.max_num_batched_tokens)
    config = EngineConfig(
        model=ModelConfig(model="fake", served_model_names=("fake",), max_model_len=max_model_len),
        cache=CacheConfig(
            block_size=executor.block_size,
            kv_cache_memory_bytes=needed + spare_bytes,
            enable_prefix_caching=caching,
            swap_space_gib=swap_bytes / (1 << 30),
        ),
        scheduler=settings,
        adapters=AdapterConfig(
            enabled=True,
            modules=tuple(AdapterModule(name=str(i), path=str(i)) for i in range(1, adapters + 1)),
            max_loras=max_loras,
            max_cpu_loras=max_cpu_loras,
        ),
    )
    executor.max_loras, executor.max_cpu_loras = max_loras, max_cpu_loras
    return EngineCore(config, executor, clock=clock, read_adapter=read_adapter)


@dataclass(slots=True)
class State:
    """The executor's copy of a request."""

    token_ids: list[int]
    num_prompt_tokens: int
    sampling: SamplingParams
    tables: list[list[int]]
    num_computed: int
    adapter_id: int
    failed: bool = False  # and nothing more is done for it
    resumed: bool = False


@dataclass
class FakeExecutor(Executor):
    """Set `fails[id]` to make a request fail: "at once" (before anything is taken in), "submit", "sample" and "collect"
    raise for the whole step, "error" reports it.

    `max_tokens_at_once`: a step of more raises, as if memory ran out. `on_submit` is called in the middle of a step.
    """

    block_size: int = 4
    windows: tuple[int | None, ...] = (None,)
    kv_bytes: int | None = None
    vocab_size: int = 50
    block_bytes: int = 1
    fails: dict[str, str] = field(default_factory=dict)
    max_tokens_at_once: int | None = None
    on_submit: Callable[[SchedulerOutput], None] | None = None
    steps: list[SchedulerOutput] = field(default_factory=list)
    states: dict[str, State] = field(default_factory=dict)
    closed: bool = False
    num_moved: int = 0
    asynchronous: bool = False
    touched: bool = False
    adapters: dict[int, Adapter] = field(default_factory=dict)
    max_loras: int = 1
    max_cpu_loras: int = 1

    def __post_init__(self) -> None:
        self.blocks: list[dict[int, list[int]]] = []
        self.num_blocks: tuple[int, ...] = ()
        self.host_blocks: list[dict[int, list[int]]] = []
        self.num_host_blocks: tuple[int, ...] = ()
        self._outputs: dict[int, StepOutput | None] = {}  # of steps in flight; None: it will raise
        self._doubtful: set[int] = set()  # steps in flight in which a request failed

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities("fake", adapters=True, grammar_masks=True, swapping=True, asynchronous=self.asynchronous)

    @property
    def layout(self) -> KVLayout:
        return KVLayout(
            self.block_size,
            tuple(
                KVGroup("full" if window is None else "window", (i,), self.block_bytes, window)
                for i, window in enumerate(self.windows)
            ),
        )

    def load(self) -> Capacity:
        return Capacity(self.layout, weight_bytes=1000, kv_bytes=self.kv_bytes)

    def init_kv(self, num_blocks: tuple[int, ...], num_host_blocks: tuple[int, ...] = ()) -> None:
        self.num_blocks = num_blocks
        self.blocks = [{} for _ in num_blocks]
        self.num_host_blocks = num_host_blocks
        self.host_blocks = [{} for _ in num_host_blocks]

    def touch_kv(self) -> None:
        self.touched = True

    def move_blocks(self, ops: KVOps) -> None:
        for moves, sources, targets, limits in (
            (ops.swap_out, self.blocks, self.host_blocks, self.num_host_blocks),
            (ops.copies, self.blocks, self.blocks, self.num_blocks),
            (ops.swap_in, self.host_blocks, self.blocks, self.num_blocks),
        ):
            for group, source, target in moves:
                _require(0 < target < limits[group], f"block {target} of group {group} is moved to")
                _require(source > 0, "the null block is moved")
                targets[group][target] = list(sources[group].get(source, [UNWRITTEN] * self.block_size))
                self.num_moved += 1

    def submit(self, step: SchedulerOutput) -> StepHandle:
        self.steps.append(step)
        _require(len(self._outputs) <= self.asynchronous, "one step too many is in flight")
        guilty = [r for r in step.num_scheduled_tokens if self.fails.get(r, "collect") != "collect"]
        if any(self.fails[r] == "at once" for r in guilty):
            raise InjectedError("before anything was taken in")
        self._apply(step)
        self.move_blocks(step.kv_ops)
        guilty += [r for r in step.num_scheduled_tokens if self.states[r].failed]
        if self.on_submit:
            self.on_submit(step)
        if self.max_tokens_at_once is not None and step.total_tokens > self.max_tokens_at_once:
            raise InjectedError(f"{step.total_tokens} tokens are too many")
        adapters = {self.states[r].adapter_id for r in step.num_scheduled_tokens} - {0}
        _require(adapters <= self.adapters.keys(), f"adapters {adapters - self.adapters.keys()} are not kept")
        _require(len(adapters) <= self.max_loras, f"{len(adapters)} different adapters are in one step")
        written: set[tuple[int, int, int]] = set()
        for request_id, count in step.num_scheduled_tokens.items():
            failure = self.fails.get(request_id)
            if failure == "submit":
                raise InjectedError(f"{request_id} can't be computed")
            if failure != "error" and not self.states[request_id].failed:
                self._write(request_id, count, written)
        for request_id, count in step.num_scheduled_tokens.items():
            if (
                not guilty and not self._doubtful
            ):  # a block that a failed request should have filled is not there; the core must notice
                self._read(request_id, count)
        if guilty:
            self._doubtful.add(step.step_id)
        return StepHandle(step.step_id)

    def sample(self, handle: StepHandle, grammar_mask: bytes | None = None) -> None:
        step = self.steps[-1]
        _require(step.step_id == handle.step_id, "sample follows its submit")
        width = len(grammar_mask or b"") // max(1, len(step.constrained))
        masks = (
            {}
            if grammar_mask is None
            else {r: grammar_mask[row * width : (row + 1) * width] for row, r in enumerate(step.constrained)}
        )
        tokens: dict[str, list[int]] = {}
        undrawable: list[str] = []
        errors = {}
        logprobs = {}
        prompt_logprobs = {}
        for request_id, count in step.num_scheduled_tokens.items():
            state = self.states[request_id]
            failure = self.fails.get(request_id)
            if failure == "sample":
                raise InjectedError(f"{request_id} can't be sampled")
            if failure == "error" or state.failed:
                state.failed = True
                errors[request_id] = "reported"
                continue
            wanted = step.logits_wanted.get(request_id, 0)
            _require(wanted <= count, f"{request_id}: {wanted} logits of {count} tokens")
            end = state.num_computed + count
            if state.sampling.prompt_logprobs is not None:
                known = range(end - wanted + 1, min(end + 1, state.num_prompt_tokens))
                prompt_logprobs[request_id] = [TokenLogprob(state.token_ids[p], -float(p), 1, []) for p in known]
            if request_id not in step.samples:
                continue
            _require(wanted > 0, f"{request_id} draws without logits")
            if state.resumed:
                del state.token_ids[end:]  # drawn when it had been sent back already: void
                state.resumed = False
            _require(end == len(state.token_ids), f"{request_id} draws before all of its tokens are computed")
            seen = self._slot(0, state.tables[0], end - 1)
            num_output = len(state.token_ids) - state.num_prompt_tokens
            _require(
                grammar_mask is None or not state.sampling.grammar or request_id in masks, "every grammar has a mask"
            )
            token = self.draw(seen, state.sampling, num_output, masks.get(request_id))
            if token is None:
                undrawable.append(request_id)
                continue
            state.token_ids.append(token)
            tokens[request_id] = [token]
            if state.sampling.logprobs is not None:
                logprobs[request_id] = [TokenLogprob(token, -1.0, 1, self._top(token, state.sampling.logprobs))]
        raising = any(self.fails.get(r) == "collect" for r in step.num_scheduled_tokens)
        output = StepOutput(
            step.step_id, tokens, logprobs, prompt_logprobs, errors=errors, undrawable=tuple(undrawable)
        )
        self._outputs[step.step_id] = None if raising else output

    def collect(self, handle: StepHandle) -> StepOutput:
        _require(next(iter(self._outputs), None) == handle.step_id, "collect follows its sample, in order")
        self._doubtful.discard(handle.step_id)
        output = self._outputs.pop(handle.step_id)
        if output is None:
            raise InjectedError("lost on the way")
        return output

    def draw(
        self, seen: int, sampling: SamplingParams, num_output_tokens: int, mask: bytes | None = None
    ) -> int | None:
        """The next token of a sequence; None if every token is banned."""
        return draw(seen, sampling, num_output_tokens, self.vocab_size, mask)

    def _top(self, token: int, count: int) -> list[tuple[int, float]]:
        """The `count` likeliest tokens: the one that was drawn, and those behind it in the vocabulary."""
        return [((token + i) % self.vocab_size, -1.0 - i) for i in range(min(count, self.vocab_size))]

    def add_adapter(self, adapter: Adapter) -> None:
        _require(adapter.adapter_id > 0 and adapter.adapter_id not in self.adapters, "an adapter's id is its own")
        _require(len(self.adapters) < self.max_cpu_loras, "one adapter too many is kept")
        self.adapters[adapter.adapter_id] = adapter

    def remove_adapter(self, adapter_id: int) -> None:
        in_flight = [step for step in self.steps if step.step_id in self._outputs]
        states = [self.states.get(r) for step in in_flight for r in step.num_scheduled_tokens]
        _require(all(s is None or s.adapter_id != adapter_id for s in states), "a step in flight has the adapter")
        self.adapters.pop(adapter_id, None)

    def close(self) -> None:
        self.closed = True

    def _apply(self, step: SchedulerOutput) -> None:
        for request_id in step.finished_ids:
            self.states.pop(request_id, None)
        for new in step.new:
            _require(new.request_id not in self.states, f"{new.request_id} is known already")
            _require(len(new.block_ids) == len(self.windows), f"{new.request_id}: a table for each group")
            self.states[new.request_id] = self._state(new)
        for continued in step.continued:
            state = self.states.get(continued.request_id)
            if state is None:
                raise ContractViolation(f"{continued.request_id} is not known")
            if continued.resumed:
                state.tables = [list(blocks) for blocks in continued.block_ids]
                state.resumed = True
            else:
                for table, blocks in zip(state.tables, continued.block_ids, strict=True):
                    table.extend(blocks)
            state.num_computed = continued.num_computed_tokens
        named = [r.request_id for r in (*step.new, *step.continued)]
        _require(sorted(named) == sorted(step.num_scheduled_tokens), "who is named is who is scheduled")
        _require(step.samples <= step.logits_wanted.keys() <= step.num_scheduled_tokens.keys(), "logits of scheduled")
        _require(all(n > 0 for n in step.num_scheduled_tokens.values()), "every request computes something")

    @staticmethod
    def _state(new: NewRequest) -> State:
        return State(
            token_ids=new.token_ids + new.output_token_ids,
            num_prompt_tokens=len(new.token_ids),
            sampling=new.sampling,
            tables=[list(blocks) for blocks in new.block_ids],
            num_computed=new.num_computed_tokens,
            adapter_id=new.adapter_id,
        )

    def _write(self, request_id: str, count: int, written: set[tuple[int, int, int]]) -> None:
        state = self.states[request_id]
        values = digests(state.token_ids, state.adapter_id)
        _require(state.num_computed + count <= len(values), f"{request_id}: more scheduled than known")
        for position in range(state.num_computed, state.num_computed + count):
            index, offset = divmod(position, self.block_size)
            for group, table in enumerate(state.tables):
                _require(index < len(table), f"{request_id}: no block for position {position} in group {group}")
                block = table[index]
                if request_id == PROBE and block == 0:
                    continue  # the engine tries whether anything runs: the null block holds nothing
                _require(0 < block < self.num_blocks[group], f"{request_id}: writes to block {block}")
                _require(
                    (group, block, offset) not in written, f"{request_id}: block {block} has two writers in a step"
                )
                written.add((group, block, offset))
                slots = self.blocks[group].setdefault(block, [UNWRITTEN] * self.block_size)
                slots[offset] = values[position]

    def _read(self, request_id: str, count: int) -> None:
        """Read all that this step's queries see, through the tables; no request reads the null block."""
        if request_id == PROBE:
            return
        state = self.states[request_id]
        values = digests(state.token_ids, state.adapter_id)
        first, end = state.num_computed, state.num_computed + count
        for group, (table, window) in enumerate(zip(state.tables, self.windows, strict=True)):
            for position in range(0 if window is None else max(0, first - window + 1), end):
                found = self._slot(group, table, position)
                _require(found == values[position], f"{request_id}: position {position} of group {group} holds {found}")

    def _slot(self, group: int, table: list[int], position: int) -> int:
        index, offset = divmod(position, self.block_size)
        slots = self.blocks[group].get(table[index])
        return UNWRITTEN if slots is None else slots[offset]


def _require(fact: bool, otherwise: str) -> None:
    if not fact:
        raise ContractViolation(otherwise)
