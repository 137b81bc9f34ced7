"""The result of a diagnosis."""

from __future__ import annotations

from dataclasses import dataclass

from octavo_operator.api.reasons import AnyReason


@dataclass(frozen=True, slots=True)
class Trouble:
    """The reason why a pod does not answer, or an object is not what it should be."""

    reason: AnyReason
    message: str
    stuck: bool
    """Only a person can fix it; otherwise it may pass by itself."""
    rank: int
    """Severity: of several, the lowest is reported."""
