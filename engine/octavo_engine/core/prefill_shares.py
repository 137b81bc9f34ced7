"""The part of a step that a prompt has beside other sequences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from octavo_engine.core import background

if TYPE_CHECKING:
    from collections.abc import Sequence as List

    from octavo_engine.core.request import Sequence
    from octavo_engine.core.step_pace import StepPace

LEAST_CHUNK = 8  # tokens of a prompt that are worth reading its whole context again, while others have their part


def prefill_share(running: List[Sequence], i: int, first: Sequence | None, budget: int) -> int:
    """The most tokens of `budget` for `running[i]`, which prefills; `first` is the waiting one that could start.

    Those after it keep a token each, so that a long prompt does not stop their output, and half of the budget if they or
    `first` can use it, so that a short prompt does not wait for the end of a long one. Those in the background keep
    nothing from one that is not.
    """
    in_background = running[i].in_background
    behind = running[i + 1 : None if in_background else background.num_online(running)]
    wanted = sum(len(seq.token_ids) + seq.num_pending - seq.num_computed for seq in behind)
    if first is not None and first.in_background <= in_background:
        wanted += len(first.token_ids)
    return max(1, min(budget - len(behind), max(budget - wanted, budget // 2, LEAST_CHUNK)))


def fitting(pace: StepPace, seq: Sequence, count: int) -> int:
    """The number of the next `count` tokens of `seq` that take as long as `count` without log-probabilities."""
    return max(1, int(count / pace.scored_cost)) if seq.needs_prompt_logprobs else count


def cost(pace: StepPace, seq: Sequence, count: int) -> int:
    """The number of tokens of a step's budget that the next `count` of `seq` take."""
    return math.ceil(count * pace.scored_cost) if seq.needs_prompt_logprobs else count
