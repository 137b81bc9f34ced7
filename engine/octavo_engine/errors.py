"""The exceptions of the engine.

OctavoError
├── ConfigError             a flag or an environment variable; ends the start with one sentence
├── ModelLoadError          a file, tensor, tokenizer or download; ends the start with one sentence
├── ExecutorError           the executor can't run this model or this machine; ends the start
│   ├── GpuUnavailableError a GPU was promised, and none can be used; ends the start
│   ├── OutOfMemoryError    a step does not fit into the device's memory; shorter ones follow
│   └── DeviceLostError     the device's context is corrupt; ends the process
├── RequestError            a client's request is wrong: HTTP 4xx, names the field
│   └── QueueFullError      the bounded queue is full: HTTP 429 with Retry-After
└── EngineDeadError         the engine core is gone: HTTP 503, and the server ends
"""

from __future__ import annotations


class OctavoError(Exception):
    """The root. Its message is one sentence for the user: what happened and what to do."""


class ConfigError(OctavoError):
    """A flag or environment variable can't be honoured."""


class ModelLoadError(OctavoError):
    """The model's files can't be had or can't be used; the message names file and tensor."""


class ExecutorError(OctavoError):
    """The chosen executor can't run this model here."""


class GpuUnavailableError(ExecutorError):
    """A GPU was promised (--device cuda), or is there, and can't be used."""


class OutOfMemoryError(ExecutorError):
    """A step, or the start, took more memory than the device has; what was there before is whole."""


class DeviceLostError(ExecutorError):
    """The device's context is corrupt: nothing that runs in this process can be trusted."""


class RequestError(OctavoError):
    """A request is refused. `param` is the offending field's path, `status` the HTTP code, `type_` a type of its own."""

    def __init__(
        self,
        message: str,
        param: str | None = None,
        *,
        status: int = 400,
        code: str | None = None,
        type_: str | None = None,
    ) -> None:
        super().__init__(message)
        self.type_ = type_
        self.param = param
        self.status = status
        self.code = code


class QueueFullError(RequestError):
    """The queue's bound is reached; the client may come back after `retry_after` seconds."""

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message, status=429, code="queue_full")
        self.retry_after = retry_after


class EngineDeadError(OctavoError):
    """The engine core ended; the message carries its reason."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message: CUDA's errors continue with debugging advice."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")


def described(error: BaseException) -> str:
    """An unforeseen error in one line: its type, and what it says."""
    return f"{type(error).__name__}: {first_line(error)}"
