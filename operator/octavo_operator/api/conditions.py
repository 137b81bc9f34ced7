"""Conditions by the Kubernetes API conventions: the types that an LLMService has, and the shape of one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from octavo_operator.api.base import Strict

READY = "Ready"
"""The wished-for replicas answer; kubectl wait --for=condition=Ready waits for this."""
PROGRESSING = "Progressing"
"""A change is under way and moves on."""
STALLED = "Stalled"
"""Nothing moves on until somebody does something; the message says what. kstatus reads it as failed."""
MODEL_CACHED = "ModelCached"
"""The model lies whole on its volume."""
AUTOSCALING = "Autoscaling"
"""The autoscaler sees its metrics and can act on them."""
FITS = "Fits"
"""The model fits the cards, or the container's memory, that it was given; Unknown blocks nothing."""
RECONCILING = "Reconciling"
"""What kstatus calls Progressing; by its convention there only while it is True."""

CONDITION_TYPES = (READY, PROGRESSING, STALLED, MODEL_CACHED, AUTOSCALING, FITS, RECONCILING)


class Condition(Strict):
    """One aspect of the service's state."""

    type: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9]*$", max_length=316)]
    """Ready, Progressing, Stalled, ModelCached, Autoscaling, Fits or Reconciling."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """The metadata.generation that this was said of."""
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """When `status` last changed, as RFC 3339; a new reason or message alone does not move it."""
    reason: Annotated[str, Field(pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", min_length=1, max_length=1024)]
    """Why, in one CamelCase word for programs."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """Why, and what to do, for people."""
