"""The part of a step that sequences in the background have: the rows of batches, which come after all others.

They give up their places and blocks to any other that waits, and beside others a step computes no more of their tokens
than it has others. Running sequences are in order, so those in the background are the last ones.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence as List

    from octavo_engine.core.request import Sequence
    from octavo_engine.core.step_pace import StepPace
    from octavo_engine.core.waiting_queue import WaitingQueue

FIRST: tuple[int, ...] = (1,)  # before the order of all that are in the background


def order(seq: Sequence) -> tuple[int, ...]:
    """The key by which sequences are sorted."""
    return seq.order


def num_online(running: List[Sequence]) -> int:
    """The number of `running` sequences that are not in the background; they precede all that are."""
    return bisect.bisect_left(running, FIRST, key=order)


def budget(pace: StepPace, running: List[Sequence], waiting: WaitingQueue) -> int:
    """The tokens of the next step, for those in the background only where nothing else runs or waits."""
    num_running, num_waiting = num_online(running), waiting.num_online
    if not num_running + num_waiting:
        num_running, num_waiting = len(running), len(waiting)
    return pace.tokens(num_running, alone=num_running + num_waiting == 1)


def left(budget: int, num_online: int) -> int:
    """The part of `budget` for those in the background, in a step of `num_online` others: a token for each of these.

    So a step beside streams stays a short one, however many rows of a batch there are.
    """
    return min(budget, num_online) if num_online else budget
