"""Finds out whether an executor can run anything at all, once each request of a step has failed alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from octavo_engine.core.outputs import NewRequest, SchedulerOutput, StepOutput
from octavo_engine.errors import DeviceLostError, described
from octavo_engine.sampling_params import SamplingParams

if TYPE_CHECKING:
    from octavo_models.spec import KVLayout

PROBE = ""  # the id of the core's own request: no client's is empty


def run_nothing(
    execute: Callable[[SchedulerOutput], StepOutput], layout: KVLayout, lengths: Iterable[int], *, pools: bool
) -> None:
    """Run prompts of the core's own over the null block, of `lengths`: of one token, as decodes are, and of two where a
    step has as many, for either kind is launched in a way of its own. `pools`: they are pooled, and draw nothing.

    Raises:
        DeviceLostError: one fails too, so no request can be served.
    """
    try:
        for length in lengths:
            null = tuple([0] * -(-length // layout.block_size) for _ in layout.groups)
            new = NewRequest(PROBE, [0] * length, SamplingParams(max_tokens=1, temperature=0.0), null, 0)
            drawn = {} if pools else {PROBE: 1}
            execute(SchedulerOutput(-1, (new,), (), {PROBE: length}, drawn, frozenset(drawn)))
            execute(SchedulerOutput(-1, (), (), {}, {}, frozenset(), finished_ids=(PROBE,)))
    except DeviceLostError:
        raise
    except Exception as error:
        raise DeviceLostError(f"no request can be run any more: {described(error)}") from error
