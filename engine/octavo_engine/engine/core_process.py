"""The process of the engine core: loads the model, then steps as long as there is work.

Started by `core_client.core_handle` as `python -m octavo_engine.engine.core_process ADDRESS PARENT`, with a `CoreBoot` as
msgpack on its standard input, which then stays open: it closes when the parent ends. Exchanges `messages` over a ZeroMQ
pair socket at ADDRESS. Imports no code for HTTP or text.
"""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from io import RawIOBase
from pathlib import Path
from types import FrameType
from typing import IO, Protocol

import msgspec
import zmq

from octavo_engine import logs, signals
from octavo_engine.config import EngineConfig
from octavo_engine.errors import ExecutorError, OctavoError, described
from octavo_engine.heartbeat import Heartbeat
from octavo_engine.messages import (
    AbortRequests,
    AdapterLoaded,
    AddAdapter,
    EngineOutput,
    EngineRequest,
    Failed,
    Pause,
    PoolingRequest,
    Progress,
    Ready,
    RemoveAdapter,
    Reply,
    Request,
    ResetPrefixCache,
    Resume,
    SchedulerStats,
    Shutdown,
    StepOutputs,
    Vocabulary,
)
from octavo_models.errors import ModelError

HEARTBEAT_MS = 1000
READING_MS = 20  # between two looks for an adapter that a thread reads
COMPILING_MS = 2  # between two looks for a grammar that a thread compiles
INTAKE_BYTES = 256 * 1024  # of requests between two steps: tens of thousands of prompt tokens, and one request at least
# Plain ints: the enumerations cost more than the call.
EVENTS = int(zmq.EVENTS)
POLLIN = int(zmq.POLLIN)
PR_SET_PDEATHSIG = 1  # linux/prctl.h
DEFAULT_LOADER = "octavo_engine.engine.loader:load"


class CoreBoot(msgspec.Struct, frozen=True):
    """The arguments of a core process; `loader` is `module:function`, a `Loader`."""

    config: EngineConfig
    started_at: float  # time.time() when the process was asked for
    heartbeat_fd: int
    loader: str = DEFAULT_LOADER


class SteppedEngine(Protocol):
    """The interface that this loop drives: `EngineCore`, or a stand-in of the tests."""

    @property
    def has_work(self) -> bool: ...

    @property
    def is_compiling(self) -> bool: ...

    @property
    def is_reading(self) -> bool: ...

    def add_adapter(self, request: AddAdapter) -> None: ...

    def remove_adapter(self, adapter_id: int) -> None: ...

    def settle_adapters(self) -> list[AdapterLoaded]: ...

    def set_vocabulary(self, vocabulary: Vocabulary) -> None: ...

    def add(self, request: EngineRequest | PoolingRequest) -> None: ...

    def abort(self, request_ids: list[str]) -> None: ...

    def reset_prefix_cache(self) -> None: ...

    def sleep(self) -> None: ...

    def wake(self) -> None: ...

    def beat_into(self, beats: memoryview) -> None: ...

    def step(self) -> list[EngineOutput]: ...

    def stats(self) -> SchedulerStats: ...

    def close(self) -> None: ...


Send = Callable[[Reply], None]
Loader = Callable[[EngineConfig, Send], tuple[SteppedEngine, Ready]]  # sends Progress and Resolved as it goes


class CoreProcess:
    """The loop between the socket and the engine."""

    def __init__(self, socket: zmq.Socket[bytes], parent: RawIOBase, settle: Callable[[], None]) -> None:
        self._socket = socket
        self._parent = parent
        self._settle = settle
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Request)
        self._num_received = 0
        self._paused = False
        self._asleep = False

    def send(self, reply: Reply) -> None:
        self._socket.send(self._encoder.encode(reply))

    def run(self, boot: CoreBoot) -> int:
        """Load and serve until a `Shutdown`. Returns the process's exit code."""
        try:
            module, _, function = boot.loader.partition(":")
            load: Loader = getattr(import_module(module), function)
            engine, ready = load(boot.config, self.send)
        except (OctavoError, ModelError) as error:
            self.send(Failed(str(error)))
            return 1
        except MemoryError:
            self.send(Failed("there is not enough memory to load the model; use a smaller one, or give it more"))
            return 1
        except Exception as error:  # noqa: BLE001 — a bug: the person gets a sentence, the log the traceback
            traceback.print_exc()
            self.send(Failed(f"the engine could not start: {described(error)}"))
            return 1
        engine.beat_into(Heartbeat(boot.heartbeat_fd).beats)
        self.send(ready)
        self._settle()
        gc.collect()
        gc.freeze()  # the start's objects stay: garbage collections between steps need not scan them
        try:
            self._serve(engine)
        except ExecutorError as error:
            self.send(Failed(str(error)))
            return 1
        except Exception as error:  # noqa: BLE001 — as above
            traceback.print_exc()
            self.send(Failed(f"the engine failed in a step: {described(error)}"))
            return 1
        finally:
            engine.close()
        return 0

    def _serve(self, engine: SteppedEngine) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._parent, zmq.POLLIN)
        while True:
            if self._paused or not engine.has_work:
                soon = COMPILING_MS if engine.is_compiling else READING_MS if engine.is_reading else HEARTBEAT_MS
                ready = dict(poller.poll(soon))
                if self._parent.fileno() in ready:
                    return  # end of file: the API server is gone
            if not self._drain(engine):
                return
            for reply in engine.settle_adapters() if engine.is_reading else ():
                self.send(reply)
            outputs = engine.step() if engine.has_work and not self._paused else []
            self.send(StepOutputs(outputs, engine.stats(), self._num_received, self._paused))

    def _drain(self, engine: SteppedEngine) -> bool:
        """Pass what has arrived to the engine, as much as a step may wait for. Returns False after a `Shutdown`."""
        left = INTAKE_BYTES
        while left > 0 and int(self._socket.getsockopt(EVENTS)) & POLLIN:
            message = self._socket.recv()
            left -= len(message)
            request = self._decoder.decode(message)
            if isinstance(request, EngineRequest | PoolingRequest):
                self._num_received += not request.background
                engine.add(request)
            elif isinstance(request, AbortRequests):
                engine.abort(request.request_ids)
            elif isinstance(request, AddAdapter):
                engine.add_adapter(request)
            elif isinstance(request, RemoveAdapter):
                engine.remove_adapter(request.adapter_id)
            elif isinstance(request, ResetPrefixCache):
                engine.reset_prefix_cache()
            elif isinstance(request, Pause | Resume):
                self._pause(engine, request)
            elif isinstance(request, Vocabulary):
                engine.set_vocabulary(request)
            else:
                assert isinstance(request, Shutdown), request
                return False
        return True

    def _pause(self, engine: SteppedEngine, request: Pause | Resume) -> None:
        self._paused = isinstance(request, Pause)
        # Not beneath requests that were sent, or resumed, meanwhile: their blocks stay.
        asleep = isinstance(request, Pause) and request.sleep and (self._asleep or not engine.has_work)
        if asleep and not self._asleep:
            engine.sleep()
        elif self._asleep and not asleep:
            engine.wake()
        self._asleep = asleep


def die_with_parent(parent: int, folder: Path) -> None:
    """End when process `parent` does, however it ends, and remove its folder with the socket.

    The kernel sends the signal; a parent that ended before that was requested is recognized by its id.
    """
    import ctypes  # noqa: PLC0415

    def end_if_orphan(_signal: int = 0, _frame: FrameType | None = None) -> None:
        if os.getppid() == parent:  # the signal is someone else's
            return
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    signal.signal(signal.SIGUSR2, end_if_orphan)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGUSR2, 0, 0, 0)
    end_if_orphan()


def kill_with_parent(parent: int) -> None:
    """End this process with its parent, even inside a long native call: nothing is left to clean up."""
    import ctypes  # noqa: PLC0415

    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def main(argv: list[str] | None = None) -> int:
    """Be the core process of the API server `PARENT`, which listens at `ADDRESS`."""
    address, parent = sys.argv[1:] if argv is None else argv
    folder = Path(address.removeprefix("ipc://")).parent
    signals.leave_to_server()
    signals.dump_stacks_at_sigusr1()
    die_with_parent(int(parent), folder)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stdin = os.fdopen(
        sys.stdin.fileno(), "rb", buffering=0, closefd=False
    )  # unbuffered, so that polling it finds all that has arrived
    boot = msgspec.msgpack.decode(read_boot(stdin), type=CoreBoot)
    logs.set_up(boot.config.server.log_level, boot.config.server.log_format)
    context = zmq.Context()
    socket = context.socket(zmq.PAIR)
    try:
        socket.set_hwm(0)  # what is queued is bounded by the requests in flight
        socket.reconnect_ivl = 5  # ms; until the server, which starts at the same time, has bound its end
        socket.linger = 1000
        socket.connect(address)

        def settle() -> None:
            _wait_until_removed(folder, stdin)
            kill_with_parent(int(parent))

        core = CoreProcess(socket, stdin, settle)
        core.send(Progress("started the engine process", time.time() - boot.started_at))
        return core.run(boot)
    finally:
        socket.close()
        context.term()


def _wait_until_removed(folder: Path, stdin: RawIOBase) -> None:
    """The server removes the folder once this process is connected: nothing is then left behind by a kill."""
    poller = zmq.Poller()
    poller.register(stdin, zmq.POLLIN)
    while folder.exists():
        if poller.poll(2):
            shutil.rmtree(folder, ignore_errors=True)
            os._exit(1)


def read_boot(stream: IO[bytes] | RawIOBase) -> bytes:
    """The parent's first message: four bytes with the length, then that many."""
    return _read(stream, int.from_bytes(_read(stream, 4), "big"))


def _read(stream: IO[bytes] | RawIOBase, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = stream.read(size - len(data))
        if not part:
            sys.exit("octavo: the engine core is started by octavo serve")
        data += part
    return data


if __name__ == "__main__":
    sys.exit(main())
