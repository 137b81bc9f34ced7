"""Events have the form and the length that the API server takes."""

from __future__ import annotations

from octavo_operator.reconcile.events import events_of

BODY = {"metadata": {"name": "s", "namespace": "n", "uid": "u", "generation": 1, "resourceVersion": "1"}}


def status(message="m", stalled="False", warnings=()):
    conditions = [
        {"type": "Ready", "status": "False", "reason": "Starting", "message": message},
        {"type": "Stalled", "status": stalled, "reason": "Starting", "message": message},
    ]
    return {"conditions": conditions, "plan": {"warnings": list(warnings)}}


def test_a_note_is_cut_by_bytes_and_never_within_a_character():
    """The API server counts bytes, and refuses the whole Event where there are more than 1024."""
    (event,) = events_of(BODY, status("ü" * 900), "me")
    assert len(event["note"].encode()) <= 1024
    assert set(event["note"]) == {"ü"}


def test_a_plans_advice_is_no_warning_but_what_takes_a_person_is():
    """An alert on Warnings stays quiet for a service that only could be better."""
    assert [each["type"] for each in events_of(BODY, status(warnings=("one replica",)), "me")] == ["Normal", "Normal"]
    assert [each["type"] for each in events_of(BODY, status(stalled="True"), "me")] == ["Warning"]
