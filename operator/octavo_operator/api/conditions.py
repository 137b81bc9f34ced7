"""Conditions by the Kubernetes API conventions: the types that an LLMService has, the shape of one, and look-ups."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from octavo_operator.api.base import Strict
from octavo_operator.api.reasons import AnyReason

READY = "Ready"
PROGRESSING = "Progressing"
STALLED = "Stalled"
MODEL_CACHED = "ModelCached"
AUTOSCALING = "Autoscaling"
FITS = "Fits"
UP_TO_DATE = "UpToDate"
TWO_OPERATORS = "TwoOperators"
RECONCILING = "Reconciling"

CONDITION_TYPES = {
    READY: "The desired replicas answer; `kubectl wait --for=condition=Ready` waits for this.",
    PROGRESSING: "A change is under way and moves on.",
    STALLED: "Nothing moves on until a person acts; the message names the remedy. kstatus reads it as failed.",
    MODEL_CACHED: "The model is complete on its volume.",
    AUTOSCALING: "The autoscaler reads its metrics and can act on them.",
    FITS: "The model fits the GPUs, or the container's memory, that it was given; Unknown blocks nothing.",
    UP_TO_DATE: "The replicas have the image and the pod template of this release of the operator.",
    TWO_OPERATORS: "Two operators reconcile the service, and one of them has given way; present only while that lasts.",
    RECONCILING: "What kstatus calls Progressing; by its convention present only while it is True.",
}
"""All types, in the order of the status, with their meaning when True."""


REASON = r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"  # the Kubernetes API's own
SHAPE = re.compile(REASON)
LONGEST_REASON = 128  # of an Event, which carries the same reason; a condition's may have 1024
LONGEST_MESSAGE = 32000  # of 32768


State = tuple[str, AnyReason, str]
"""Status, reason and message of a condition."""


def by_type(status: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    """The conditions of any object's status, by their type."""
    return {str(condition.get("type")): condition for condition in (status or {}).get("conditions") or ()}


def condition_of(thing: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """An object's condition of this type; empty where it has none."""
    return by_type(thing.get("status")).get(kind, {})


def is_true(thing: Mapping[str, Any], kind: str) -> bool:
    """True if an object has the condition with the status True."""
    return bool(condition_of(thing, kind).get("status") == "True")


def entry(kind: str, state: State, last: Mapping[str, Any], generation: int | None, now: str) -> dict[str, Any]:
    """A condition of ours as the status holds it; `lastTransitionTime` moves with the status alone.

    `last` is the former condition of this type, or empty.
    """
    status, reason, message = state
    since = last.get("lastTransitionTime") if last.get("status") == status else None
    made: dict[str, Any] = {
        "type": kind,
        "status": status,
        "lastTransitionTime": since or now,
        "reason": as_reason(reason),
        "message": message[:LONGEST_MESSAGE],
    }
    return made if generation is None else made | {"observedGeneration": generation}


def as_reason(reason: AnyReason) -> str:
    """Turns anyone's word into a reason that the API server accepts: `OutOfnvidia.com/gpu` is OutOfnvidiaComGpu.

    A status with one bad reason would be refused as a whole.
    """
    text = str(reason)
    if SHAPE.fullmatch(text) and len(text) <= LONGEST_REASON:
        return text
    first, *rest = re.sub(r"[^A-Za-z0-9_]+", " ", text).split() or ["Unknown"]
    joined = (first + "".join(word[0].upper() + word[1:] for word in rest)).lstrip("0123456789_")
    return joined[:LONGEST_REASON] or "Unknown"


class Condition(Strict):
    """One aspect of the service's state."""

    type: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9]*$", max_length=316)]
    """Ready, Progressing, Stalled, ModelCached, Autoscaling, Fits, UpToDate, TwoOperators or Reconciling."""
    status: Literal["True", "False", "Unknown"]
    """True, False or Unknown."""
    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """The metadata.generation that the condition describes."""
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """The time when `status` last changed, as RFC 3339; a new reason or message alone does not move it."""
    reason: Annotated[str, Field(pattern=REASON, min_length=1, max_length=1024)]
    """The reason, in one CamelCase word for programs."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """The reason and the remedy, for people."""
