"""The asyncio side of the engine core: sends requests, distributes outputs, and watches that the core is alive.

The core is another process behind a ZeroMQ pair socket and uses no asyncio. Admission to the bounded queue is decided
here, exactly, from the core's last message and what was sent since. Independent of text and HTTP.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import msgspec
import zmq

from octavo_engine.config import ModelFiles, SchedulerConfig, decode_files
from octavo_engine.core_client.core_handle import LOST_EACH_OTHER, CoreHandle, RankProcess
from octavo_engine.core_client.followers import Followers
from octavo_engine.core_client.observer import Observer
from octavo_engine.core_client.output_stream import OutputStream
from octavo_engine.core_client.queue_pace import QueuePace
from octavo_engine.core_client.start_watch import bytes_moved
from octavo_engine.errors import ConfigError, EngineDeadError, QueueFullError, RequestError
from octavo_engine.messages import (
    AbortRequests,
    AdapterLoaded,
    AddAdapter,
    EngineRequest,
    Failed,
    Pause,
    PoolingRequest,
    Progress,
    Ready,
    RemoveAdapter,
    Reply,
    ResetPrefixCache,
    Resolved,
    Resume,
    SchedulerStats,
    Shutdown,
    StepOutputs,
    Vocabulary,
)

# Plain ints: the enumerations cost more than the call.
EVENTS = int(zmq.EVENTS)
POLLIN = int(zmq.POLLIN)
PauseMode = Literal["abort", "wait", "keep"]
POLL_SECONDS = 0.01  # between two looks at whether a pause has come
PULSE_SECONDS = 0.5  # between two checks of whether the core makes progress within a step
CAUSE_SECONDS = 3.0  # after a rank's end, until it is clear that the cause lies on another machine


class EngineClient:
    """One engine core, as the server sees it. Every method is called on the event loop that `connect` ran on."""

    def __init__(self, core: CoreHandle, limits: SchedulerConfig) -> None:
        """Bind the socket that the core connects to; `connect` does the rest."""
        self._core = core
        self._limits = limits
        self._observer: Observer
        self._streams: dict[str, OutputStream] = {}
        self._unstarted: dict[str, int] = {}  # request id to prompt tokens, until the first output; in order
        self._loading: dict[int, asyncio.Future[str | None]] = {}  # adapters, until the core answers
        self._pace = QueuePace()
        self._num_sent = 0
        self._followers = Followers()
        self._held: list[tuple[str, bytes]] | None = None  # while paused: requests that are not sent yet, by their ids
        self._core_paused = self.is_asleep = False
        self._num_received = 0
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Reply)
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.PAIR)
        self._socket.set_hwm(0)
        self._socket.linger = 0
        try:
            self._socket.bind(core.address)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise ConfigError(
                f"the engine's socket can't be made: {error.strerror}; make room there, or set TMPDIR"
            ) from error
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_progress: Callable[[str, float], None] = lambda _stage, _seconds: None
        self._files: asyncio.Future[ModelFiles] | None = None
        self._ready: asyncio.Future[Ready] | None = None
        self.dead: EngineDeadError | None = None
        self.on_death: Callable[[EngineDeadError], None] = lambda _error: None
        self.stats = SchedulerStats(
            num_running=0, num_waiting=0, kv_usage=0.0, prefix_cache_queries=0, prefix_cache_hits=0, num_preemptions=0
        )
        self.last_heard = time.monotonic()  # from the core, or a beat of its heart
        self._beats = 0

    def connect(self, observer: Observer, on_progress: Callable[[str, float], None]) -> None:
        """Listen on the running event loop; `on_progress` gets each stage of the core's start and its seconds."""
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._on_progress = on_progress
        self._files = self._loop.create_future()
        self._ready = self._loop.create_future()
        self._loop.add_reader(self._socket.getsockopt(zmq.FD), self._readable)  # type: ignore[arg-type]
        for rank in self._core.ranks:
            self._loop.add_reader(rank.alive, self._rank_ended, rank)
        self._check_pulse()
        self._loop.call_soon(self._readable)  # the descriptor is edge-triggered: what came before must be asked for

    async def model_files(self) -> ModelFiles:
        """The model's files, as soon as the core has resolved them. Raises EngineDeadError if it can't."""
        assert self._files is not None, "connect first"
        return await self._files

    async def ready(self) -> Ready:
        """Wait until the core serves. Raises EngineDeadError, with the core's reason, if it never will."""
        assert self._ready is not None, "connect first"
        return await self._ready

    def bytes_moved(self) -> int | None:
        """Bytes that this process and the ranks have read and written; None if the system does not report them."""
        return bytes_moved([os.getpid(), *(rank.process.pid for rank in self._core.ranks)])

    @property
    def num_waiting(self) -> int:
        """The number of waiting requests, including those that the core has not reported yet."""
        return self._would_wait(0)

    def check_room(self) -> None:
        """Raise QueueFullError or EngineDeadError if not even the smallest request would be admitted now.

        For a check before a request is read; `submit` decides.
        """
        if self.dead is not None:
            raise self.dead
        self._admit(1, 1)

    def submit(
        self,
        requests: Sequence[EngineRequest | PoolingRequest],
        *,
        admitted: bool = False,
        behind: Mapping[str, str] | None = None,
    ) -> OutputStream:
        """Send requests that share a stream: all of them are admitted, or none.

        `behind[id]` is the request of the same prompt whose first output the request `id` waits for, to find its blocks.

        `admitted`: they go on with something that was admitted, so a full queue does not refuse them. Those in the
        background are no part of the queue. If the core turns out to be gone, the stream raises that, with the cause.

        Raises:
            QueueFullError: a bound of the queue is reached.
            RequestError: they could never be admitted together.
            EngineDeadError: the core is gone.
        """
        if self.dead is not None:
            raise self.dead
        background = any(request.background for request in requests)
        if not (admitted or background):
            self._admit(len(requests), sum(len(request.prompt_token_ids) for request in requests))
        stream = OutputStream(self.end, [request.request_id for request in requests])
        messages = [(request.request_id, self._encoder.encode(request)) for request in requests]  # before any is sent
        for request in requests:  # registered before they are sent: a send may find that the core is gone
            self._streams[request.request_id] = stream
            if not background:
                self._unstarted[request.request_id] = len(request.prompt_token_ids)
            self._observer.arrived(request)
        self._pass_on(self._followers.hold(messages, behind or {}))
        return stream

    def _pass_on(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """Send requests that have not been ended, or hold them back while the engine is paused."""
        left = [message for message in messages if message[0] in self._streams]
        if self._held is not None:
            self._held += left
        elif left:
            self._send_requests(left)

    def _send_requests(self, messages: Iterable[tuple[str, bytes]]) -> None:
        for request_id, message in messages:
            self._send_encoded(message)
            self._num_sent += request_id in self._unstarted
        self._poke()

    @property
    def is_paused(self) -> bool:
        """True while new requests are held back."""
        return self._held is not None

    @property
    def num_held(self) -> int:
        """The number of requests that are held back."""
        return len(self._held or ())

    async def pause(self, mode: PauseMode, *, sleep: bool = False) -> bool:
        """Hold new requests back until `resume`, and let nothing run: what does is aborted, finished, or kept as it is.

        `sleep`: give KV memory back too. False if it was resumed, or another pause keeps what runs. Raises EngineDeadError.
        """
        self._held = self._held or []
        held = {request_id for request_id, _ in self._held}
        if mode == "keep":
            self._send(Pause(sleep))
            self.is_asleep = sleep
            self._poke()
        elif mode == "abort":
            for stream in {stream for name, stream in self._streams.items() if name not in held}:
                stream.abort()
        while self.dead is None and self._held is not None:
            held = {request_id for request_id, _ in self._held}
            quiet = self._core_paused if mode == "keep" else self._streams.keys() <= held
            if quiet or (mode == "wait" and self._core_paused):
                return quiet
            await asyncio.sleep(POLL_SECONDS)
        if self.dead is not None:
            raise self.dead
        return False

    def resume(self) -> None:
        """Run what was held back or kept."""
        held, self._held, self.is_asleep = self._held, None, False
        if self.dead is None:
            self._send(Resume())
            self._send_requests(each for each in held or () if each[0] in self._streams)

    def end(self, request_ids: list[str], reason: str) -> None:
        """Finish requests for a reason on this side; the core frees their blocks. Unknown ids are ignored."""
        if not (known := [each for each in request_ids if self._streams.pop(each, None) is not None]):
            return
        now = time.monotonic()
        for request_id in known:
            self._unstarted.pop(request_id, None)
            self._observer.finished(request_id, reason, now)
        if self.dead is None:
            self._pass_on([each for request_id in known for each in self._followers.release(request_id)])
            self._send(AbortRequests(known))
            self._poke()

    def send_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Send the tokens that grammars are about, before the first request that has one."""
        if self.dead is None:
            self._send(vocabulary)
            self._poke()

    async def load_adapter(self, adapter_id: int, path: str) -> str | None:
        """Have the engine read an adapter for requests to come. The reason why it can't be served; None if it can.

        Raises:
            EngineDeadError: the core is gone.
        """
        if self.dead is not None:
            raise self.dead
        answer = self._loading[adapter_id] = asyncio.get_running_loop().create_future()
        self._send(AddAdapter(adapter_id=adapter_id, path=path))
        self._poke()
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:  # the client went away: no request will name the adapter
            self.remove_adapter(adapter_id)
            raise
        finally:
            self._loading.pop(adapter_id, None)

    def remove_adapter(self, adapter_id: int) -> None:
        """Have the engine free an adapter once the requests that have it have ended."""
        if self.dead is None:
            self._send(RemoveAdapter(adapter_id))
            self._poke()

    def reset_prefix_cache(self) -> None:
        """Drop the cached blocks that nothing uses."""
        if self.dead is None:
            self._send(ResetPrefixCache())
            self._poke()

    def close(self) -> int:
        """Shut the core down and wait for it. Returns its exit code."""
        if self.dead is None:
            self.dead = EngineDeadError("the engine is shutting down")
            self._send(Shutdown())
        self._stop_listening()
        self._socket.close(linger=1000)
        self._context.term()
        return self._core.close()

    def kill(self) -> None:
        """End the core at once, whatever it does, and leave nothing behind."""
        self._core.kill()

    def drop_all(self, reason: str) -> None:
        """Abort every request; its stream raises an EngineDeadError with `reason`."""
        streams = set(self._streams.values())
        self.end(list(self._streams), "abort")
        for stream in streams:
            stream.fail(EngineDeadError(reason))

    def _admit(self, count: int, tokens: int) -> None:
        """Admit `count` requests of `tokens` prompt tokens. Raises QueueFullError, or RequestError if they never fit."""
        limit = self._limits.max_num_queued_reqs
        if limit is not None:
            if count > limit + self._limits.max_num_seqs:
                raise RequestError(
                    f"{count} sequences in one request are more than this server runs and queues at once "
                    f"({self._limits.max_num_seqs} + {limit}); send fewer prompts or a smaller n"
                )
            if self._would_wait(count) > limit:
                self._observer.rejected("max_num_queued_reqs")
                raise QueueFullError(
                    f"the queue is full: {self.num_waiting} requests wait (max-num-queued-reqs {limit})",
                    retry_after=self._pace.seconds_for(self.num_waiting, time.monotonic()),
                )
        bound = self._limits.max_num_queued_tokens
        waiting = self.num_waiting
        if bound is not None and waiting:
            queued = sum(list(self._unstarted.values())[-waiting:])
            if queued + tokens > bound:
                self._observer.rejected("max_num_queued_tokens")
                raise QueueFullError(
                    f"the queue is full: {queued} prompt tokens wait (max-num-queued-tokens {bound})",
                    retry_after=self._pace.seconds_for(waiting, time.monotonic()),
                )

    def _would_wait(self, more: int) -> int:
        """The number of requests that would wait if `more` were sent now."""
        unmentioned = self._num_sent - self._num_received
        free = 0 if self.stats.num_waiting else self._limits.max_num_seqs - self.stats.num_running
        waiting = self.stats.num_waiting + max(0, unmentioned + more - free)
        return min(waiting, len(self._unstarted) + more)  # those that were ended since then wait no longer

    def _send(self, message: msgspec.Struct) -> None:
        self._send_encoded(self._encoder.encode(message))

    def _send_encoded(self, message: bytes) -> None:
        try:
            self._socket.send(message, zmq.NOBLOCK)
        except zmq.Again:
            # The notice of its end is about to arrive, with the cause, and ends all streams.
            assert self._loop is not None
            self._loop.call_soon(self._find_cause, time.monotonic() + CAUSE_SECONDS)

    def _poke(self) -> None:
        """Read what has arrived: sending may consume the socket's edge-triggered event."""
        if self._loop is not None and int(self._socket.getsockopt(EVENTS)) & POLLIN:
            self._loop.call_soon(self._readable)

    def _check_pulse(self) -> None:
        """Check the core's counter: in the middle of a step the core sends nothing and counts."""
        if self._socket.closed:
            return
        if self._beats != (beats := self._core.heartbeat.count):
            self._beats = beats
            self.last_heard = time.monotonic()
        assert self._loop is not None
        self._loop.call_later(PULSE_SECONDS, self._check_pulse)

    def _readable(self) -> None:
        while not self._socket.closed and int(self._socket.getsockopt(EVENTS)) & POLLIN:
            message = self._decoder.decode(self._socket.recv(zmq.NOBLOCK))
            self.last_heard = time.monotonic()
            if isinstance(message, StepOutputs):
                self._dispatch(message)
            elif isinstance(message, AdapterLoaded):
                answer = self._loading.get(message.adapter_id)
                if answer is not None and not answer.done():
                    answer.set_result(message.problem)
            else:
                self._started(message)

    def _dispatch(self, message: StepOutputs) -> None:
        now = time.monotonic()
        self.stats = message.stats
        self._num_received = message.num_received
        self._core_paused = message.paused
        streams, unstarted, observer = self._streams, self._unstarted, self._observer
        observer.stepped(message.stats, now)
        for output in message.outputs:
            request_id = output.request_id
            stream = streams.get(request_id)
            if stream is None:
                continue  # it was ended from this side
            if request_id in self._followers:
                self._pass_on(self._followers.release(request_id))
            observer.output(output, now)
            if request_id in unstarted:
                del unstarted[request_id]
                self._pace.started(now)
            if output.finish_reason is not None:
                del streams[request_id]
                observer.finished(request_id, output.finish_reason, now)
            stream.put(output)

    def _started(self, message: Ready | Progress | Resolved | Failed) -> None:
        assert self._files is not None
        assert self._ready is not None
        self._core.remove_folder()  # connected: the socket's name is needed no longer
        if isinstance(message, Progress):
            self._on_progress(message.stage, message.seconds)
        elif isinstance(message, Resolved):
            self._files.set_result(decode_files(message.files))
        elif isinstance(message, Ready):
            self._ready.set_result(message)
        else:
            self._die(message.reason)

    def _rank_ended(self, rank: RankProcess) -> None:
        """The pipe has ended, and with it the process; the core's last message may still be in the socket."""
        assert self._loop is not None
        self._loop.remove_reader(rank.alive)
        self._core.note_end(rank)
        self._readable()
        if self.dead is None:
            self._find_cause(time.monotonic() + CAUSE_SECONDS)

    def _find_cause(self, end: float) -> None:
        """Look for the rank that ended first, until `end`: the others follow it."""
        if self.dead is not None:
            return
        cause = self._core.cause()
        if cause is None and time.monotonic() < end:
            assert self._loop is not None
            self._loop.call_later(0.05, self._find_cause, end)
            return
        self._die(cause or LOST_EACH_OTHER)

    def _die(self, reason: str) -> None:
        if self.dead is not None:
            return
        error = self.dead = EngineDeadError(reason)
        for stream in set(self._streams.values()):
            stream.fail(error)
        now = time.monotonic()
        for request_id in self._streams:
            self._observer.finished(request_id, "error", now)
        self._streams.clear()
        self._unstarted.clear()
        for future in (self._files, self._ready, *self._loading.values()):
            if future is not None and not future.done():
                future.set_exception(error)
                future.exception()  # not every caller awaits both
        self._stop_listening()
        self.on_death(error)

    def _stop_listening(self) -> None:
        if self._loop is not None and not self._socket.closed:
            self._loop.remove_reader(self._socket.getsockopt(zmq.FD))  # type: ignore[arg-type]
            for rank in self._core.ranks:
                if rank.alive >= 0:
                    self._loop.remove_reader(rank.alive)
