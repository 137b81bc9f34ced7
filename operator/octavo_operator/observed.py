"""What is known of the world when a plan is made. A frozen snapshot: the planner never looks for itself."""

from __future__ import annotations

from dataclasses import dataclass

from octavo_models import ModelSpec


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything may be unknown; the plan then says so, and blocks nothing on that account."""

    model: ModelSpec | None = None
    """The model's description."""
    why_unknown: str = "its description is not at hand"
    """Where `model` is None: why, as half a sentence."""
    free_cards: int | None = None
    """Cards that are free on nodes that would do; None where nobody looked."""
    serving: bool = False
    """Replicas of this service run already: a service that runs keeps its children."""
    service_monitors: bool | None = None
    """The cluster knows ServiceMonitors; None where nobody looked."""
    claim_access_mode: str | None = None
    """Of the model's claim, where it exists: a claim keeps its mode, whatever would be chosen today."""
