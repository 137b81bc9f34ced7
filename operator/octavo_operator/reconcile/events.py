"""Events: changes that a person may act on; never one a pass.

A change is found by comparison with the object's former status, not by memory. The name follows from the content,
so one that was posted just before a crash is not posted twice. A Warning is for what takes a person or ends answers: an
alert on Warnings stays quiet while a plan only advises.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from octavo_operator.api.conditions import READY, STALLED, UP_TO_DATE, by_type
from octavo_operator.api.reasons import EventReason, StateReason, UpgradeReason
from octavo_operator.api.resources import EVENTS
from octavo_operator.api.v1alpha1 import API_VERSION, KIND
from octavo_operator.cluster.editors import editor
from octavo_operator.reconcile import rivals

Object = dict[str, Any]
CONTROLLER = "octavo.dev/operator"
LONGEST_NOTE = 1000  # bytes; the API server refuses more than 1024


def events_of(body: Mapping[str, Any], desired: Mapping[str, Any], identity: str) -> Iterator[Object]:
    """The Events that lead from the status of `body` to the `desired` one."""
    before = body.get("status") or {}
    old, new = by_type(before), by_type(desired)
    ready, stalled = new[READY], new[STALLED]
    if _changed(old.get(READY), ready):
        grave = stalled["status"] == "True" or (
            ready["status"] == "False" and old.get(READY, {}).get("status") == "True"
        )
        yield _event(body, "Warning" if grave else "Normal", ready, old.get(READY), identity)
    if stalled["status"] == "True" and ready["status"] == "True" and _changed(old.get(STALLED), stalled):
        yield _event(body, "Warning", stalled, old.get(STALLED), identity)
    upgrade = new.get(UP_TO_DATE)
    if upgrade and UP_TO_DATE in old and _changed(old[UP_TO_DATE], upgrade) and _is_reported(old[UP_TO_DATE], upgrade):
        yield _event(
            body,
            "Warning" if upgrade["reason"] == UpgradeReason.FAILED else "Normal",
            upgrade,
            old[UP_TO_DATE],
            identity,
        )
    yield from plan_warnings(body, desired, identity)


def plan_warnings(body: Mapping[str, Any], desired: Mapping[str, Any], identity: str) -> Iterator[Object]:
    """Report the warnings of the plan that the status of `body` does not have."""
    known = set(((body.get("status") or {}).get("plan") or {}).get("warnings", ()))
    for warning in (desired.get("plan") or {}).get("warnings", ()):
        if warning not in known:
            yield _event(body, "Normal", {"reason": EventReason.PLAN_WARNING, "message": warning}, None, identity)


def rivalry(body: Mapping[str, Any], rival: str, own: str, identity: str) -> Object:
    """Two operators over one service: this one leaves it alone."""
    what = {"reason": StateReason.TWO_OPERATORS, "message": rivals.in_words(rival, own)}
    return _event(body, "Warning", what, None, identity)


def restored(
    body: Mapping[str, Any], before: Sequence[Mapping[str, Any]], changed: Sequence[str], identity: str
) -> Iterator[Object]:
    """Report children that were changed back although the manifest had not changed, with the writer whose edit was undone."""
    for live in before:
        name = f"{live['kind']} {live['metadata']['name']}"
        if name in changed and (hand := editor(live)) is not None:
            text = (
                f"what {hand} changed in {name} was undone: change the LLMService (podTemplate has what no field has)"
            )
            yield _event(body, "Normal", {"reason": EventReason.RESTORED, "message": text}, None, identity)


def _is_reported(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """An upgrade's beginning and end; not that a service waits for its turn, which all do at once."""
    return (
        new["reason"] in {UpgradeReason.UPGRADING, UpgradeReason.FAILED, UpgradeReason.AVAILABLE}
        or old["reason"] == UpgradeReason.UPGRADING
    )


def _changed(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> bool:
    return old is None or (old["status"], old["reason"]) != (new["status"], new["reason"])


def _event(
    body: Mapping[str, Any], kind: str, what: Mapping[str, Any], before: Mapping[str, Any] | None, identity: str
) -> Object:
    metadata, reason = body["metadata"], str(what["reason"])
    since = (before or {}).get("lastTransitionTime"), (before or {}).get("reason")
    known = (metadata["uid"], metadata.get("generation"), reason, what["message"], what.get("status"), since)
    digest = hashlib.sha256(repr(known).encode()).hexdigest()[:16]
    return {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.kind,
        "metadata": {"name": f"{metadata['name']}.{digest}", "namespace": metadata["namespace"]},
        "eventTime": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "type": kind,
        "reason": reason,
        "note": what["message"].encode()[:LONGEST_NOTE].decode(errors="ignore"),
        "action": "Reconcile",
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
        "reportingController": CONTROLLER,
        "reportingInstance": identity[:128],
    }
