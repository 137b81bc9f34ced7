"""The contract between the engine core and whatever runs the model.

Three calls a step, not one: a grammar's mask is computed while the forward runs, and the next step may be
scheduled before this one is read. An executor owns weights, KV blocks and each request's tokens; it does not know
why a request is scheduled, and it never frees or allocates a block by itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from octavo_engine.core.outputs import KVOps, SchedulerOutput, StepOutput
    from octavo_engine.weights.adapter import Adapter
    from octavo_models.spec import KVLayout


NOT_FINITE = "the model's vector of this prompt has elements that are not finite numbers"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The features that an executor offers; the core refuses a request for any other at the edge."""

    name: str  # for people, such as "native avx512-bf16, 2 threads"
    asynchronous: bool = False  # a step may be submitted and sampled before the last one is collected
    grammar_masks: bool = False
    swapping: bool = False
    speculative: bool = False
    pooling: bool = False  # models that pool: encoders, and decoders as embedders and rerankers
    adapters: bool = False
    sleeping: bool = False  # level 1 of `sleep`


@dataclass(frozen=True, slots=True)
class Capacity:
    """The result of `load`: the layout of blocks, and the bytes left for them. Of several ranks, on each.

    `kv_bytes` is None where the executor sets no bound of its own (a CPU): the configuration then decides.
    """

    layout: KVLayout
    weight_bytes: int  # resident, after packing
    kv_bytes: int | None
    sharers: int = 1  # ranks on this machine that each take as much of its memory, this one included


@dataclass(frozen=True, slots=True)
class StepHandle:
    """Names a step between `submit` and `collect`."""

    step_id: int


class Executor(ABC):
    """One model on one device. Calls come from one thread, in the order of the methods below.

    An asynchronous one may be given the next step before this one is collected: steps run in order, the next one's
    requests follow on tokens that only the executor has, and failures of the next one leave this one whole. What is
    drawn for a request that has ended, or that is sent again from an earlier position, is void; a request that has
    failed may be scheduled once more before the failure reaches the core; it then fails again, or draws an arbitrary token.

    `submit`, `sample` or `collect` may raise when a step fails as a whole. The core then sends the step's requests
    one at a time, each in `finished_ids` and `new` at once: what the failed step left of them is dropped.
    """

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities: ...

    def beat_into(self, beats: memoryview) -> None:  # noqa: B027 — steps of a GPU are short
        """Count `beats[0]`, 64 bits, up from now on, also within a step, each time that a part of it is done.

        Another process reads it, to know a slow executor from one that hangs. Parts take seconds at most.
        """

    @abstractmethod
    def load(self) -> Capacity:
        """Read and pack the weights.

        Raises:
            ModelLoadError: a tensor is missing, malformed or of a format that can't be run.
            ExecutorError: the machine lacks what this executor or this model needs.
        """

    def limit_length(self, max_len: int) -> None:  # noqa: B027 — most have no tables as wide as a sequence is long
        """No sequence is longer than `max_len` tokens: said between `load` and `init_kv`, once it is settled."""

    @abstractmethod
    def init_kv(self, num_blocks: tuple[int, ...], num_host_blocks: tuple[int, ...] = ()) -> None:
        """Allocate blocks: `num_blocks[g]` of `layout.groups[g].block_bytes` each. Block 0 of a group is the null block:
        it is never written, and nothing that is read from it counts. `num_host_blocks` are those to swap to, in host
        memory, where `capabilities.swapping` says so.
        """

    def touch_kv(self) -> None:  # noqa: B027 — most have it already
        """Have the system give the memory of all blocks now, if it would otherwise do so as they are first used."""

    @abstractmethod
    def move_blocks(self, ops: KVOps) -> None:
        """Move blocks, and return when they have arrived: swaps out first, then copies, then swaps in.

        What `submit` does with a step's `kv_ops`, but for the waiting.
        """

    @abstractmethod
    def submit(self, step: SchedulerOutput) -> StepHandle:
        """Apply the step's changes of state and block moves, then run (or launch) the forward.

        The KV of every scheduled token is written to its block before any attention of that layer reads it, so a
        request may share blocks that another one fills in this very step.
        """

    @abstractmethod
    def sample(self, handle: StepHandle, grammar_mask: bytes | None = None) -> None:
        """Draw a token for each request of `step.samples`.

        A mask has one bit a token, in rows of whole 32-bit little-endian words: one for each request of the step's
        `constrained`, the ones that the executor refused included. The step before may be collected between `submit`
        and this call: what it drew decides the mask.
        """

    @abstractmethod
    def collect(self, handle: StepHandle) -> StepOutput:
        """Wait for the step and return what it made. A request that failed alone is in `errors`.

        Of a model that pools, a step's prompts are whole, draw nothing, and have no blocks (`layout` has no groups):
        `pooled` has each one's vector, or scores, as the model's `Pooling` defines them.

        Raises:
            DeviceLostError: nothing in this process can be trusted any more.
        """

    def add_adapter(self, adapter: Adapter) -> None:
        """Keep an adapter, which requests then name by its id. Between steps, once `init_kv` was called.

        At most `config.adapters.max_loras` different adapters are in one step, and at most
        `config.adapters.max_cpu_loras` are kept.

        Raises:
            ExecutorError: the machine lacks the memory; all else is as before.
        """
        raise NotImplementedError(f"{self.capabilities.name} has no adapters: {adapter.adapter_id}")

    def remove_adapter(self, adapter_id: int) -> None:
        """Free an adapter. No step in flight has it, and no request names it again; an unknown id is ignored."""
        raise NotImplementedError(f"{self.capabilities.name} has no adapters: {adapter_id}")

    @abstractmethod
    def close(self) -> None:
        """Free everything; no call comes after it."""

    def sleep(self, level: int) -> None:
        """Give device memory back (1: blocks; 2: weights too) until `wake`; not all executors can.

        Called between steps; what blocks held is lost, so no request of the core's has any.
        """
        raise NotImplementedError(f"{self.capabilities.name} can't sleep (level {level})")

    def wake(self) -> None:
        """Undo `sleep`."""
        raise NotImplementedError(f"{self.capabilities.name} can't sleep")
