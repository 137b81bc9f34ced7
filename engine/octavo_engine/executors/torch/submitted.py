"""A step on its way through the torch executor: submitted, then drawn or pooled, then collected."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from octavo_engine.core.outputs import SchedulerOutput
from octavo_engine.executors.torch.input_batch import StepBatch
from octavo_engine.executors.torch.sampler import Results


@dataclass(slots=True)
class SubmittedStep:
    """A step between `submit` and `collect`."""

    step: SchedulerOutput
    batch: StepBatch
    hidden: Tensor  # [num_tokens, hidden_size], normed
    rows: Tensor  # [num_requests] int32
    query_starts: Tensor
    seq_lens: Tensor
    drawing: Tensor  # [requests that draw]: their numbers
    drawn: Tensor | None = None  # where the forward has drawn already
    results: Results = field(default_factory=lambda: Results([], [], {}))


@dataclass(slots=True)
class Drawn:
    """A step between `sample` and `collect`, which holds none of its tensors on the device."""

    results: Results
    done: torch.cuda.Event | None = None
