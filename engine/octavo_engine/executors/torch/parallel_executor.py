"""A model over several ranks: rank 0 leads with `LeadExecutor`, the others `follow`. Each has a `TorchExecutor`.

A step goes out as the scheduler's own output, in msgpack, and every rank runs it alike. All ranks of the last stage
draw every token, from the same gathered logits by the same Philox draws: one collective a step, where drawing on
rank 0 and sending the token needs two, and a drawn token never leaves the device for the next step. With several stages, what the last
one drew goes round once, for the first one embeds it.

A step that fails at the same place on every rank leaves them in step, and the guilty request ends alone. One that fails
on some ranks leaves the others waiting inside of it: the engine ends.
"""

from __future__ import annotations

import contextlib
import logging
import traceback
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from octavo_engine.config import EngineConfig, ModelFiles, decode_files, encode_files
from octavo_engine.core.outputs import KVOps, SchedulerOutput, StepOutput
from octavo_engine.errors import DeviceLostError, ExecutorError, described
from octavo_engine.executors.cores import number_of_threads
from octavo_engine.executors.executor import Capabilities, Capacity, Executor, StepHandle
from octavo_engine.executors.torch.executor import ADAPTER_REMEDY, TorchExecutor
from octavo_engine.executors.torch.parallel_group import RankGroup
from octavo_engine.weights.adapter import Adapter, LowRank
from octavo_models.outline import Model
from octavo_models.spec import KVLayout


class LimitLength(msgspec.Struct, frozen=True, tag="limit_length"):
    """No sequence is longer."""

    max_len: int


class InitKV(msgspec.Struct, frozen=True, tag="init_kv"):
    """Allocate blocks."""

    num_blocks: tuple[int, ...]
    num_host_blocks: tuple[int, ...]


class MoveBlocks(msgspec.Struct, frozen=True, tag="move_blocks"):
    """Move blocks, and wait for them."""

    ops: KVOps


class Step(msgspec.Struct, frozen=True, tag="step"):
    """Run a step and draw."""

    scheduled: SchedulerOutput


class Masks(msgspec.Struct, frozen=True, tag="masks"):
    """The masks of the step before, which was sent with `constrained` requests."""

    bits: bytes


class AdapterPart(msgspec.Struct, frozen=True, tag="adapter_part"):
    """One weight's matrices of the adapter that follows, float32: messages stay small, however large an adapter is."""

    weight: str
    rank: int
    a: bytes
    b: bytes


class AddAdapter(msgspec.Struct, frozen=True, tag="add_adapter"):
    """Keep an adapter, whose parts were sent before."""

    adapter_id: int


class RemoveAdapter(msgspec.Struct, frozen=True, tag="remove_adapter"):
    """Free an adapter."""

    adapter_id: int


class Close(msgspec.Struct, frozen=True, tag="close"):
    """The engine ends in good order."""


Command = LimitLength | InitKV | MoveBlocks | Step | Masks | AdapterPart | AddAdapter | RemoveAdapter | Close


class Found(msgspec.Struct, frozen=True):
    """A rank's `Capacity`."""

    layout: KVLayout
    weight_bytes: int
    kv_bytes: int | None


logger = logging.getLogger(__name__)

ENCODER = msgspec.msgpack.Encoder()
COMMANDS = msgspec.msgpack.Decoder(Command)
FOUND = msgspec.msgpack.Decoder(Found)
OUTPUTS = msgspec.msgpack.Decoder(StepOutput)


class LeadExecutor(Executor):
    """Rank 0 of several. Everything that it is asked, it has the others do too."""

    def __init__(self, config: EngineConfig, spec: Model, files: ModelFiles) -> None:
        self._group = RankGroup(config.parallel, 0, config.executor.device)
        self._group.publish(files_key(config), encode_files(files))
        self._rank = Rank(config, spec, files, self._group)
        self._reachable = False  # the others wait for commands
        self._masked = False  # the step that was submitted last waits for its masks

    @property
    def capabilities(self) -> Capabilities:
        own, parallel = self._rank.executor.capabilities, self._group.config
        return replace(
            own,
            name=f"{own.name}, {parallel.world_size} ranks",
            asynchronous=own.asynchronous and parallel.pipeline_parallel_size == 1,
        )

    def load(self) -> Capacity:
        """Load on every rank, and return what fits on all of them: the widest blocks, the least memory."""
        found = self._rank.load()
        first = found[0].layout
        groups = tuple(
            replace(group, block_bytes=max(f.layout.groups[g].block_bytes for f in found))
            for g, group in enumerate(first.groups)
        )
        here = self._group.config.ranks_here
        kv_bytes = [f.kv_bytes for f in found if f.kv_bytes is not None]
        self._reachable = True
        return Capacity(
            replace(first, groups=groups),
            sum(found[rank].weight_bytes for rank in here),
            min(kv_bytes, default=None),
            sharers=len(here),
        )

    def limit_length(self, max_len: int) -> None:
        self._send(LimitLength(max_len))
        self._rank.executor.limit_length(max_len)

    def beat_into(self, beats: memoryview) -> None:
        """Count this rank's parts, and the others': a stage computes nothing while it waits for another one."""
        self._rank.executor.beat_into(beats)
        self._group.pulse.count_others_into(beats)

    def init_kv(self, num_blocks: tuple[int, ...], num_host_blocks: tuple[int, ...] = ()) -> None:
        self._send(InitKV(num_blocks, num_host_blocks))
        self._rank.executor.init_kv(num_blocks, num_host_blocks)

    def move_blocks(self, ops: KVOps) -> None:
        self._send(MoveBlocks(ops))
        self._rank.executor.move_blocks(ops)

    def add_adapter(self, adapter: Adapter) -> None:
        for part in adapter.parts:
            self._send(AdapterPart(part.weight, len(part.a), part.a.tobytes(), part.b.tobytes()))
        self._send(AddAdapter(adapter.adapter_id))
        self._rank.add_adapter(adapter)

    def remove_adapter(self, adapter_id: int) -> None:
        self._send(RemoveAdapter(adapter_id))
        self._rank.executor.remove_adapter(adapter_id)

    def submit(self, step: SchedulerOutput) -> StepHandle:
        with self._one_step():
            self._send(Step(step))
            self._masked = bool(step.constrained)
            return self._rank.executor.submit(step)

    def sample(self, handle: StepHandle, grammar_mask: bytes | None = None) -> None:
        with self._one_step():
            if self._masked:
                self._send(Masks(grammar_mask or b""))
            self._rank.sample(handle, grammar_mask)

    def collect(self, handle: StepHandle) -> StepOutput:
        with self._one_step():
            return self._rank.collect(handle)

    def close(self) -> None:
        if self._reachable:
            with contextlib.suppress(
                RuntimeError, DeviceLostError
            ):  # a rank is gone: the others find out by themselves
                self._send(Close())
                self._rank.executor.close()  # NCCL waits for ever for a group whose collectives a graph holds
                self._group.close()
                return
        self._rank.executor.close()

    def _send(self, command: Command) -> None:
        self._group.send_command(ENCODER.encode(command))

    @contextmanager
    def _one_step(self) -> Iterator[None]:
        """Run one step. A failure inside is one of all ranks, or loses the device for good."""
        try:
            with self._rank.failing_together():
                yield
        except DeviceLostError:
            self._reachable = False
            raise


class Rank:
    """One rank's part of each call, the same for the leader and the followers."""

    def __init__(self, config: EngineConfig, spec: Model, files: ModelFiles, group: RankGroup) -> None:
        self._group = group
        self.executor = TorchExecutor(_shared_out(config), spec, files, group.device, group.parallel)

    def load(self) -> list[Found]:
        """Load; what every rank found."""
        own = self.executor.load()
        data = ENCODER.encode(Found(own.layout, own.weight_bytes, own.kv_bytes))
        return [FOUND.decode(found) for found in self._group.gather("capacity", data)]

    def sample(self, handle: StepHandle, grammar_mask: bytes | None) -> None:
        if self._group.place.last_stage:
            self.executor.sample(handle, grammar_mask)

    def collect(self, handle: StepHandle) -> StepOutput:
        """Collect the step's results, on every rank."""
        place = self._group.place
        if place.num_stages == 1:
            return self.executor.collect(handle)
        source = self._group.config.world_size - place.tensor_size
        if not place.last_stage:
            output = OUTPUTS.decode(self._group.broadcast(None, source))
            self.executor.take_drawn(handle, output)
            return output
        output = self.executor.collect(handle)
        self._group.broadcast(ENCODER.encode(output) if self._group.rank == source else None, source)
        return output

    def add_adapter(self, adapter: Adapter) -> None:
        """Keep the rank's part of an adapter, on every rank or on none.

        Raises:
            ExecutorError: a rank can't keep it.
        """
        refusal: ExecutorError | None = None
        try:
            self.executor.add_adapter(adapter)
        except DeviceLostError:
            raise
        except ExecutorError as error:
            refusal = error
        if not self._group.parallel.worst(int(refusal is not None)):
            return
        self.executor.remove_adapter(adapter.adapter_id)
        raise refusal or ExecutorError(
            f"another rank can't keep adapter {adapter.adapter_id}: its log says why; {ADAPTER_REMEDY}"
        )

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Lets an exception pass that all ranks have met; raises DeviceLostError if they have not."""
        try:
            yield
        except DeviceLostError:
            raise
        except Exception as error:
            if self._group.pulse.all_failed_alike(_place_of(error, self._group.parallel.num_collectives)):
                raise
            raise DeviceLostError(
                f"rank {self._group.rank} failed in a step, and the ranks are no longer in step: {described(error)}"
            ) from error


def follow(config: EngineConfig, spec: Model, files: ModelFiles, group: RankGroup) -> None:
    """Do what rank 0 does until it ends in good order.

    Raises:
        OctavoError: this rank can't go on.
    """
    rank = Rank(config, spec, files, group)
    rank.load()
    # As many steps are read later as rank 0 lets run on: waiting for one would keep the next from being launched.
    ahead = 1 if rank.executor.capabilities.asynchronous and group.place.num_stages == 1 else 0
    running: deque[StepHandle] = deque()
    unmasked: StepHandle | None = None
    parts: list[LowRank] = []

    def sample(handle: StepHandle, masks: bytes | None) -> None:
        rank.sample(handle, masks)
        running.append(handle)
        while len(running) > ahead:
            rank.collect(running.popleft())

    while True:
        command = COMMANDS.decode(group.receive_command())
        if isinstance(command, LimitLength):
            rank.executor.limit_length(command.max_len)
        elif isinstance(command, InitKV):
            rank.executor.init_kv(command.num_blocks, command.num_host_blocks)
            rank.executor.beat_into(group.pulse.beats)
        elif isinstance(command, MoveBlocks):
            rank.executor.move_blocks(command.ops)
        elif isinstance(command, Step):
            with _failing_alike(rank):
                handle = rank.executor.submit(command.scheduled)
                unmasked = handle if command.scheduled.constrained else None
                if unmasked is None:
                    sample(handle, None)
        elif isinstance(command, Masks):
            assert unmasked is not None, "masks follow their step"
            with _failing_alike(rank):
                sample(unmasked, command.bits or None)
        elif isinstance(command, AdapterPart):
            parts.append(
                LowRank(command.weight, _matrix(command.a, command.rank, -1), _matrix(command.b, -1, command.rank))
            )
        elif isinstance(command, AddAdapter):
            adapter = Adapter(command.adapter_id, tuple(parts))
            parts.clear()
            try:
                rank.add_adapter(adapter)
            except DeviceLostError:
                raise
            except ExecutorError as error:  # rank 0 raises it too
                logger.warning("adapter %d is not kept: %s", command.adapter_id, error)
        elif isinstance(command, RemoveAdapter):
            rank.executor.remove_adapter(command.adapter_id)
        else:
            rank.executor.close()
            group.close()
            return


def _matrix(numbers: bytes, rows: int, columns: int) -> NDArray[np.float32]:
    return np.frombuffer(numbers, np.float32).reshape(rows, columns)


@contextmanager
def _failing_alike(rank: Rank) -> Iterator[None]:
    """A failure that all ranks have met is reported by rank 0, which goes on: so do the others."""
    try:
        with rank.failing_together():
            yield
    except DeviceLostError:
        raise
    except Exception as error:  # noqa: BLE001 — as above
        logger.debug("a step failed on all ranks: %r", error)


def _place_of(error: Exception, num_collectives: int) -> int:
    """A number for where a step failed: equal on ranks that have done the same until then, and differing elsewhere."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"{frame.filename}:{frame.lineno}" for frame in frames if frame.filename != __file__]
    return zlib.crc32(f"{type(error).__name__} {num_collectives} {lines}".encode())


def files_key(config: EngineConfig) -> str:
    """The key under which the ranks of a machine find where the model's files lie there."""
    return f"files/{config.parallel.node_rank}"


def files_of(config: EngineConfig, group: RankGroup) -> ModelFiles:
    """The model's files, where the first rank of this machine has found or put them."""
    return decode_files(group.ask(files_key(config)))


def _shared_out(config: EngineConfig) -> EngineConfig:
    """The configuration with the rank's share of the threads: ranks that all use every core hinder each other."""
    threads = number_of_threads(config.executor.threads)
    share = max(1, threads // len(config.parallel.ranks_here))
    return msgspec.structs.replace(config, executor=msgspec.structs.replace(config.executor, threads=share))
