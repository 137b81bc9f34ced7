"""Why nothing is created for an LLMService."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """A spec that cannot run as it stands. `reason` is a condition's, `remedy` an imperative."""

    reason: str
    message: str
    remedy: str
