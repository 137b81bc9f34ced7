"""The status where no pass is made: the API server refuses the operator, or another one reconciles. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from octavo_operator.api.conditions import PROGRESSING, STALLED, TWO_OPERATORS, State, by_type, entry
from octavo_operator.api.reasons import ApiReason, StateReason
from octavo_operator.errors import ApiError
from octavo_operator.reconcile import rivals
from octavo_operator.reconcile.diagnosis.redaction import redacted

REFUSALS = {401, 403, 405}


def status_after(body: Mapping[str, Any], error: ApiError, now: str) -> dict[str, Any] | None:
    """The former status, with the refusal in it; None where it has it already, or the error is of another kind.

    The state of the replicas stands: they go on answering.
    """
    if error.status not in REFUSALS:
        return None
    text = f"the operator can't look after it: {redacted(error.words)}; give it the rights in config/rbac"
    changed = {
        STALLED: ("True", ApiReason.FORBIDDEN, text),
        PROGRESSING: ("False", ApiReason.FORBIDDEN, text),
    }
    return _with(body, changed, {}, now)


def status_beside(body: Mapping[str, Any], rival: str, own: str, now: str) -> dict[str, Any] | None:
    """The former status, which the rival goes on writing, with who has given way; None where it has that already."""
    text = rivals.in_words(rival, own)
    former = body.get("status") or {}
    if any(each.get("message") == text for each in by_type(former).values()) and former.get(rivals.OTHER) == own:
        return None  # the rival keeps it, with the generation that it has reconciled
    changed = {TWO_OPERATORS: ("True", StateReason.TWO_OPERATORS, text)}
    return _with(body, changed, {rivals.OTHER: own}, now)


def _with(
    body: Mapping[str, Any], changed: Mapping[str, State], fields: Mapping[str, Any], now: str
) -> dict[str, Any] | None:
    former, generation = body.get("status") or {}, body["metadata"].get("generation")
    conditions = by_type(former)
    for kind, state in changed.items():
        conditions[kind] = entry(kind, state, conditions.get(kind, {}), generation, now)
    result = {**former, **fields, "conditions": list(conditions.values())}
    return None if result == former else result
