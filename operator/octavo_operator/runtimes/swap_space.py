"""`engine.swapSpace` where there is none: a check that several runtimes share."""

from __future__ import annotations

from octavo_models import ModelSpec
from octavo_operator.api.engine import Engine
from octavo_operator.api.reasons import SpecReason
from octavo_operator.api.refusal import Refusal

DEFAULT = Engine.model_fields["swap_space"].default  # the same value in a manifest cannot be distinguished from it


def swap_space_on_cpu(engine: Engine, spec: ModelSpec | None, on_gpu: bool) -> Refusal | None:
    """Refuses swap space for a KV cache that is in host memory."""
    del spec
    return None if on_gpu else no_swap_space(engine, "on a CPU the KV cache lies in host memory already")


def no_swap_space(engine: Engine, why: str) -> Refusal | None:
    """Refuses any swap space that a manifest requests."""
    if int(engine.swap_space) in {0, int(DEFAULT)}:
        return None
    return Refusal(SpecReason.SWAP_SPACE, f"engine.swapSpace: {why}", "remove engine.swapSpace")
