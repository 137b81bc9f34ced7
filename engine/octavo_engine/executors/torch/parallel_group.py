"""The process groups by which ranks meet and exchange messages about their work.

All ranks share one store (rank 0 serves it, on a socket that was opened for it) and process groups over it: gloo for
messages, and for tensors too on CPUs; NCCL for tensors on GPUs. Messages are bytes, never pickled objects. Commands of
rank 0 go through shared memory where all ranks are on one machine (`parallel_commands`). A rank that is gone is noticed
by `parallel_pulse`.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore  # dist's own, which its stubs leave out

from octavo_engine.config import Device, ParallelConfig
from octavo_engine.errors import DeviceLostError, ExecutorError
from octavo_engine.executors.torch.device import device_of
from octavo_engine.executors.torch.parallel import RankedParallel
from octavo_engine.executors.torch.parallel_commands import SLOT_BYTES, CommandRing
from octavo_engine.executors.torch.parallel_pulse import PULSE_SECONDS, Pulse
from octavo_engine.executors.torch.parallel_symmetric import BUFFER_BYTES, Memory, SymmetricSum, TorchMemory

logger = logging.getLogger(__name__)

VANISHED = timedelta(seconds=60)  # a machine that is gone without a word; a process that ends is noticed at once
FOREVER = timedelta(days=365)  # idle ranks wait for the next step
LEAD = 0
INLINE = 4096  # bytes of a message that travel with its length
SIOCGIFADDR = 0x8915  # linux/sockios.h


class RankGroup:
    """All ranks, as one of them sees them. Every rank makes the same calls in the same order.

    Raises:
        ExecutorError: this machine has fewer GPUs than ranks, or none that was promised.
    """

    def __init__(
        self, config: ParallelConfig, rank: int, promised: Device = "auto", memory: Memory | None = None
    ) -> None:
        """`memory` is what torch offers for GPUs that map each other's, unless given: a CPU has none."""
        self.config = config
        self.rank = rank
        self.place = config.place(rank)
        self.device = _device(config, rank, promised)
        self._memory = TorchMemory() if memory is None and self.device.type == "cuda" else memory
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _interface_towards(config.master_addr))
        self._store = TCPStore(
            config.master_addr,
            config.master_port,
            config.world_size,
            is_master=rank == LEAD,
            timeout=FOREVER,
            wait_for_workers=False,
            master_listen_fd=config.listen_fd if rank == LEAD else None,
        )
        dist.init_process_group("gloo", store=self._store, rank=rank, world_size=config.world_size, timeout=FOREVER)
        self.pulse = Pulse(rank, config.world_size, _group(backend="gloo", timeout=VANISHED))
        self._ring = self._command_ring()
        self.parallel = self._parallel()

    def publish(self, key: str, data: bytes) -> None:
        """Put something into the store that others will ask for."""
        self._store.set(key, data)  # type: ignore[arg-type]  # takes bytes as well

    def ask(self, key: str) -> bytes:
        """Wait for what is published under `key`, and return it."""
        with self._messaging():
            return bytes(self._store.get(key))

    def gather(self, key: str, data: bytes) -> list[bytes]:
        """Exchange `data` with every rank under `key`, and return all of it, by rank."""
        self.publish(f"{key}/{self.rank}", data)
        return [self.ask(f"{key}/{rank}") for rank in range(self.config.world_size)]

    def broadcast(self, data: bytes | None, source: int = LEAD) -> bytes:
        """The bytes of rank `source`, which alone gives them."""
        head = bytearray(8 + INLINE)
        if data is not None:
            head[:8] = len(data).to_bytes(8, "big")
            head[8 : 8 + len(data[:INLINE])] = data[:INLINE]
        with self._messaging():
            dist.broadcast(torch.frombuffer(head, dtype=torch.uint8), source)
        size = int.from_bytes(head[:8], "big")
        rest = bytearray(max(0, size - INLINE) if data is None else data[INLINE:])
        if rest:
            with self._messaging():
                dist.broadcast(torch.frombuffer(rest, dtype=torch.uint8), source)
        return bytes(head[8 : 8 + size] + rest)

    def send_command(self, data: bytes) -> None:
        """Rank 0's next message to all others, which call `receive_command`. It has a byte at least."""
        if self._ring is not None:
            fits = len(data) <= SLOT_BYTES
            self._ring.put(data if fits else b"")
            if fits:
                return
        self.broadcast(data)

    def receive_command(self) -> bytes:
        """The next message of rank 0, once it is there."""
        with self._messaging():
            data = b"" if self._ring is None else self._ring.get()
        return data or self.broadcast(None)

    def close(self) -> None:
        """Part from the others, which do so too. The executor has forgotten its graphs, and waited for the device."""
        self.pulse.leave()
        if self._ring is not None:
            self._ring.close()
        if self.parallel.symmetric is not None:
            self.parallel.symmetric.release()
        dist.destroy_process_group()

    @contextmanager
    def _messaging(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            time.sleep(3 * PULSE_SECONDS)  # if a rank is gone, this process ends meanwhile
            raise DeviceLostError(f"rank {self.rank} can't exchange messages with the others: {error}") from error

    def _command_ring(self) -> CommandRing | None:
        """Shared memory for commands, if every rank has it: else all use the process group."""
        if self.config.nnodes > 1:
            return None
        ring, obstacle, num_readers = None, b"", self.config.world_size - 1
        try:
            if self.rank == LEAD:
                ring = CommandRing.create(num_readers)
        except OSError as error:
            obstacle = str(error).encode()
        if self.rank == LEAD:
            self.publish("commands", b"" if ring is None else ring.path.encode())
        elif path := self.ask("commands"):
            try:
                ring = CommandRing.open(path.decode(), num_readers, self.rank - 1)
            except OSError as error:
                obstacle = str(error).encode()
        obstacles = [obstacle for obstacle in self.gather("commands", obstacle) if obstacle]
        if not obstacles:
            return ring
        if ring is not None:
            ring.close()
        if self.rank == LEAD:
            logger.warning("commands go to the ranks over TCP, for they share no memory: %s", obstacles[0].decode())
        return None

    def _parallel(self) -> RankedParallel:
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        everyone = range(self.config.world_size)
        stages = [[r for r in everyone if self._stage(r) == stage] for stage in range(self.place.num_stages)]
        groups = [_group(ranks, backend=backend) for ranks in stages]
        device_group = _group(backend=backend)
        group = groups[self.place.stage]
        return RankedParallel(self.place, group, device_group, None if group is None else self._symmetric_sum(group))

    def _symmetric_sum(self, group: dist.ProcessGroup) -> SymmetricSum | None:
        """The sums of a stage's ranks over symmetric memory, if every rank of the engine has it."""
        config, here = self.config, self.config.ranks_here
        if self._memory is None or self.place.tensor_size == 1 or not config.custom_all_reduce:
            return None
        stage = [rank for rank in range(config.world_size) if self._stage(rank) == self.place.stage]
        if config.nnodes > 1:
            obstacle: str | None = f"the ranks are on {config.nnodes} machines"
        else:
            peers = [_device_of(rank - here.start, self.device) for rank in stage if rank != self.rank]
            made = SymmetricSum(group, self.device, peers, self._memory)
            obstacle = made.agree(self._gather_text, lambda limit: self._store.set_timeout(limit or FOREVER))
        if self.rank == LEAD and obstacle is not None:
            logger.warning("sums between GPUs take NCCL, slower for a few requests: no symmetric memory: %s", obstacle)
        elif self.rank == LEAD:
            logger.info(
                "sums between GPUs of up to %d KiB take symmetric memory%s, larger ones NCCL",
                (BUFFER_BYTES if made.multicast else made.one_shot_bytes) >> 10,
                " and the switch's multicast" if made.multicast else "",
            )
        return made if obstacle is None else None

    def _gather_text(self, key: str, text: str) -> list[str]:
        return [found.decode() for found in self.gather(key, text.encode())]

    def _stage(self, rank: int) -> int:
        return rank // self.place.tensor_size


def _device(config: ParallelConfig, rank: int, promised: Device) -> torch.device:
    if device_of(promised).type == "cpu":
        return torch.device("cpu")
    here = config.ranks_here
    if torch.cuda.device_count() < len(here):
        raise ExecutorError(
            f"{len(here)} ranks run on this machine, which has {torch.cuda.device_count()} GPUs: each rank needs one; "
            "lower --tensor-parallel-size or --pipeline-parallel-size, or spread them with --nnodes"
        )
    device = torch.device("cuda", rank - here.start)
    torch.cuda.set_device(device)
    return device


def _device_of(number: int, device: torch.device) -> torch.device:
    """That of rank number `number` of this machine, of the same kind as `device`."""
    return torch.device("cuda", number) if device.type == "cuda" else device


def _interface_towards(address: str) -> str:
    """The network interface that reaches `address`: gloo would else take the one that the host's name points to."""
    family, _, _, _, target = socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(target)  # sends nothing
        own = probe.getsockname()[0]
    if family == socket.AF_INET:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            for _, name in socket.if_nameindex():
                try:
                    answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
                except OSError:
                    continue  # it has no IPv4 address
                if socket.inet_ntoa(answer[20:24]) == own:
                    return name
    return "lo" if own in {"::1", "127.0.0.1"} else ""


def _group(
    ranks: Sequence[int] | None = None, *, backend: str, timeout: timedelta | None = None
) -> dist.ProcessGroup | None:
    """A group of ranks, all without `ranks`; None where this rank is not in it."""
    group = dist.new_group(None if ranks is None else list(ranks), backend=backend, timeout=timeout)
    return group if isinstance(group, dist.ProcessGroup) else None  # else torch's mark of a stranger
