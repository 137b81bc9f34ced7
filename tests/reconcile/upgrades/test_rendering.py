"""The rendering that a Deployment was given is kept in its annotation, and read back from the Deployment alone."""

from __future__ import annotations

import json

import pytest
from upgrade_cases import at, rendering

from octavo_operator.reconcile.upgrades.rendering import (
    ANNOTATION,
    LONGEST,
    Attempt,
    Move,
    Pin,
    Record,
    adopted,
    annotated,
    asked_of,
    recorded,
)

DEPLOYMENT = {"metadata": {"name": "s", "annotations": {"a": "b"}}, "spec": {"template": {}, "replicas": 1}}
WHOLE = Record(rendering(), Move(rendering(), 2, at(3)), Attempt("r", "1", "", served=False, at=at(4), why="so"))


@pytest.mark.parametrize("record", [WHOLE, Record(rendering(variant=None))])
def test_a_record_is_read_back_as_it_was_written(record):
    manifest = annotated(DEPLOYMENT, record)
    assert recorded(manifest) == record
    assert manifest["spec"] == {"template": record.current.template, "replicas": 1}
    assert manifest["metadata"]["annotations"]["a"] == "b"
    assert ANNOTATION not in DEPLOYMENT["metadata"]["annotations"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"current": {}}', '{"current": {"asked": "1", "release": "", "pin": {"x": 1}}}',
     json.dumps({"current": {"asked": "1", "release": "", "pin": None, "template": {}}})],
)  # fmt: skip
def test_an_annotation_that_is_not_ours_counts_as_none(text):
    assert recorded({"metadata": {"annotations": {ANNOTATION: text}}}) is None


def test_a_template_too_long_for_an_annotation_is_not_recorded():
    """The API server would refuse the Deployment; such a service is adopted again in each pass."""
    manifest = annotated(DEPLOYMENT, Record(rendering(env="x" * LONGEST)))
    assert ANNOTATION not in manifest["metadata"]["annotations"]
    assert manifest["spec"]["template"]["env"]


@pytest.mark.parametrize(
    ("status", "asked", "pin"),
    [
        ({"observedGeneration": 3}, "3", Pin("octavo-cuda", "octavo/engine:0.0.9", "")),
        (None, "3", Pin("octavo-cuda", "octavo/engine:0.0.9", "")),  # a restored backup
        (
            {"observedGeneration": -1},
            "3",
            Pin("octavo-cuda", "octavo/engine:0.0.9", ""),
        ),  # as the API server defaults it
        ({"observedGeneration": 2}, "", None),  # edited while no operator ran
    ],
)
def test_a_deployment_without_a_record_says_itself_what_it_was_given(status, asked, pin):
    template = {"metadata": {"creationTimestamp": None}, "spec": {"containers": [
        {"name": "sidecar", "image": "proxy"}, {"name": "engine", "image": "octavo/engine:0.0.9"}]}}  # fmt: skip
    deployment = {"metadata": {}, "spec": {"template": template}}
    body = {"metadata": {"generation": 3}} | ({} if status is None else {"status": status})
    found = adopted(deployment, body, rendering("0.2.0-bbbbbb", "3"))
    assert (found.current.asked, found.current.pin) == (asked, pin)
    assert found.current.template == {"metadata": {}, "spec": template["spec"]}


def test_what_was_asked_changes_with_the_generation_and_with_our_annotations_alone():
    def asked(generation, **annotations):
        return asked_of({"metadata": {"generation": generation, "annotations": annotations}, "spec": {"a": generation}})

    ours = {"octavo.dev/ignore-fit": "true"}
    assert asked(1) == "1" == asked(1, other="x") == asked(1, **{"octavo.dev/upgrade": "r"})
    assert len({asked(1), asked(2), asked(1, **ours), asked(2, **ours)}) == 4
    assert asked_of({"metadata": {"generation": 1}, "spec": {"defaulted": "by a newer definition"}}) == "1"
