"""The loop around the engine core: what it takes in between two steps."""

from __future__ import annotations

import io

import msgspec
import pytest

from octavo_engine.engine.core_process import INTAKE_BYTES, POLLIN, CoreProcess
from octavo_engine.messages import AbortRequests, EngineRequest, Request, Shutdown
from octavo_engine.sampling_params import SamplingParams


class QueuedSocket:
    """The part of a ZeroMQ socket that `CoreProcess` reads."""

    def __init__(self, messages: list[Request]) -> None:
        self.waiting = [msgspec.msgpack.encode(message) for message in messages]

    def getsockopt(self, _option: int) -> int:
        return POLLIN if self.waiting else 0

    def recv(self) -> bytes:
        return self.waiting.pop(0)


class Taken:
    """An engine that only notes what it is handed."""

    def __init__(self) -> None:
        self.added: list[str] = []
        self.aborted: list[str] = []

    def add(self, request: EngineRequest) -> None:
        self.added.append(request.request_id)

    def abort(self, request_ids: list[str]) -> None:
        self.aborted += request_ids


def request(name: str, num_tokens: int) -> EngineRequest:
    return EngineRequest(
        request_id=name, prompt_token_ids=[100_000] * num_tokens, sampling=SamplingParams(max_tokens=1), arrival_time=0
    )


@pytest.mark.parametrize("num_tokens", [10, 5000, 400_000])
def test_burst_is_taken_in_over_many_steps(num_tokens: int) -> None:
    """In order and in parts of a bounded size, or one by one: those that run get their tokens in between."""
    names = [f"r{i:06}" for i in range(2 * INTAKE_BYTES // (5 * num_tokens) + 3)]
    socket = QueuedSocket([*(request(name, num_tokens) for name in names), AbortRequests(["r000000"]), Shutdown()])
    engine = Taken()
    core = CoreProcess(socket, io.BytesIO(), lambda: None)
    parts = []
    size = len(socket.waiting[-3])
    while True:
        before = len(engine.added)
        going_on = core._drain(engine)
        parts.append(len(engine.added) - before)
        if not going_on:
            break
    assert engine.added == names
    assert engine.aborted == ["r000000"]
    assert len(parts) > 2
    assert max(parts) * size <= INTAKE_BYTES + size
