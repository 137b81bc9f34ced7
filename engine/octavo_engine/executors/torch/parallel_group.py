"""How ranks meet, talk about their work, and notice that one of them is gone.

All ranks share one store (rank 0 serves it, on a socket that was opened for it) and process groups over it: gloo for
words, and for numbers too on CPUs; NCCL for numbers on cards. Words are bytes, never pickled objects. A thread of
each rank joins hands with the others once a second; when that fails, the rank ends at once, whatever it is doing.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import threading
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
from octavo_engine.messages import LOST_TOUCH
from octavo_models.partition import Place

PULSE_SECONDS = 1.0
PATIENCE = 5  # pulses, until a rank that has failed takes it that the others have not
NOWHERE = -1
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

    def __init__(self, config: ParallelConfig, rank: int, promised: Device = "auto") -> None:
        self.config = config
        self.rank = rank
        self.place = Place.of(rank, config.tensor_parallel_size, config.pipeline_parallel_size)
        self.device = _device(config, rank, promised)
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
        self._pulse = _group(backend="gloo", timeout=VANISHED)
        self._leaving = threading.Event()
        self._failure = NOWHERE
        self._verdict = threading.Semaphore(0)
        self._alike = False
        self._watch = threading.Thread(target=self._hold_hands, name="ranks", daemon=True)
        self._watch.start()
        self.parallel = self._parallel()

    def publish(self, key: str, data: bytes) -> None:
        """Say something that others will ask for."""
        self._store.set(key, data)  # type: ignore[arg-type]  # takes bytes as well

    def ask(self, key: str) -> bytes:
        """What was published under `key`, as soon as it is."""
        with self._talking():
            return bytes(self._store.get(key))

    def broadcast(self, data: bytes | None, source: int = LEAD) -> bytes:
        """The bytes of rank `source`, which alone gives them."""
        head = bytearray(8 + INLINE)
        if data is not None:
            head[:8] = len(data).to_bytes(8, "big")
            head[8 : 8 + len(data[:INLINE])] = data[:INLINE]
        with self._talking():
            dist.broadcast(torch.frombuffer(head, dtype=torch.uint8), source)
        size = int.from_bytes(head[:8], "big")
        rest = bytearray(max(0, size - INLINE) if data is None else data[INLINE:])
        if rest:
            with self._talking():
                dist.broadcast(torch.frombuffer(rest, dtype=torch.uint8), source)
        return bytes(head[8 : 8 + size] + rest)

    def gather(self, key: str, data: bytes) -> list[bytes]:
        """What every rank has to say about `key`, in their order."""
        self.publish(f"{key}/{self.rank}", data)
        return [self.ask(f"{key}/{rank}") for rank in range(self.config.world_size)]

    def all_failed_alike(self, where: int) -> bool:
        """After a failure at `where`, a number: whether all ranks have failed there, and so are in step still.

        Does not return if another rank is gone, for then this one ends too.
        """
        self._failure = where
        self._verdict.acquire()
        return self._alike

    def close(self) -> None:
        """Part from the others, which do so too."""
        self._leaving.set()
        self._watch.join()
        dist.destroy_process_group()

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            time.sleep(3 * PULSE_SECONDS)  # if a rank is gone, this one ends meanwhile
            raise DeviceLostError(f"rank {self.rank} can't talk to the others: {error}") from error

    def _parallel(self) -> RankedParallel:
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        everyone = range(self.config.world_size)
        stages = [[r for r in everyone if self._stage(r) == stage] for stage in range(self.place.num_stages)]
        groups = [_group(ranks, backend=backend) for ranks in stages]
        device_group = _group(backend=backend)
        return RankedParallel(self.place, groups[self.place.stage], device_group)

    def _stage(self, rank: int) -> int:
        return rank // self.place.tensor_size

    def _hold_hands(self) -> None:
        """Until one of the ranks leaves in good order; the process ends if one is gone without that.

        When this rank has failed in a step, it learns here whether all have, or some wait for it in a collective.
        """
        waited = 0
        while True:
            leaving, where = self._leaving.wait(PULSE_SECONDS), self._failure
            pulse = torch.tensor([leaving, where == NOWHERE, where, -where], dtype=torch.int64)
            try:
                dist.all_reduce(pulse, op=dist.ReduceOp.MAX, group=self._pulse)
            except RuntimeError:
                os._exit(LOST_TOUCH)  # in silence: whoever started the ranks says which of them was first
            some_leave, some_are_well, highest, lowest = pulse.tolist()
            if some_leave:
                self._verdict.release()  # whoever waits for one waits in vain
                return
            if where == NOWHERE:
                continue
            waited += 1
            if not some_are_well or waited == PATIENCE:
                self._alike = not some_are_well and highest == -lowest
                self._failure, waited = NOWHERE, 0
                self._verdict.release()


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
