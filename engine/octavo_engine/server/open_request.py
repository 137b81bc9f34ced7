"""One sequence between its arrival and its end, as metrics and spans describe it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from octavo_engine.sampling_params import SamplingParams


@dataclass(slots=True)
class OpenRequest:
    """Counts and times of a sequence; times are `time.monotonic()`."""

    arrived: float
    num_prompt_tokens: int
    num_tokens: int = 0
    num_cached: int = 0
    num_preemptions: int = 0
    queued: float = 0.0
    scheduled: float = 0.0
    first: float = 0.0
    last: float = 0.0
    sampling: SamplingParams | None = None  # None: it pools
    in_background: bool = False
    num_choices: int = 1  # of its prompt
    name: Callable[[], str] | None = None  # its request's, for its span: known once it was submitted
    trace: Any = None  # OpenTelemetry's context of the client's span
