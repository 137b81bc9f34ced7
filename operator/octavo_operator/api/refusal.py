"""The refusal of a plan: why nothing is created for an LLMService."""

from __future__ import annotations

from dataclasses import dataclass

from octavo_operator.api.reasons import FitReason, SpecReason


@dataclass(frozen=True, slots=True)
class Refusal:
    """A spec that cannot run as it stands. `remedy` is an imperative."""

    reason: SpecReason | FitReason
    message: str
    remedy: str
