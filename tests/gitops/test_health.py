"""Argo CD and Flux judge an LLMService in each of its states, by their own code."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from argocd_binary import ArgoCD
from service_states import BASE, CASES, KSTATUS, SUSPENDED, Seen, edited, lives, object_of, unseen, with_others

ROOT = Path(__file__).parents[2]
SERVING = lives(BASE, Seen(ready=1))


def health_check_expressions():
    """The Kustomization's, out of docs/gitops.md: what a person copies is what is tried."""
    text = (ROOT / "docs/gitops.md").read_text()
    blocks = [part.split("```")[0] for part in text.split("```yaml\n")[1:]]
    (kustomization,) = (d for block in blocks for d in yaml.safe_load_all(block) if d["kind"] == "Kustomization")
    (expressions,) = kustomization["spec"]["healthCheckExprs"]
    assert (expressions["apiVersion"], expressions["kind"]) == (SERVING["apiVersion"], SERVING["kind"])
    return expressions


@pytest.mark.parametrize("name", CASES)
def test_argo_cd_shows_each_state_in_the_operators_words(argocd, name):
    """Degraded only where a person must act, with what to do; Suspended only where all has come to rest."""
    case = CASES[name]
    (health,) = argocd.ask("health", [object_of(case)])
    assert health["status"] == case.health
    assert case.words in health["message"]


def test_every_word_of_argo_cd_is_used():
    """Each that a resource can have of its own."""
    assert {case.health for case in CASES.values()} == {"Progressing", "Healthy", "Degraded", "Suspended"}


def test_a_status_of_an_older_spec_counts_for_nothing(argocd):
    """Whatever it was before, an edit is in progress until the operator has looked at it; so is a new object."""
    made = [object_of(case) for case in CASES.values()]
    for object_ in ([edited(each) for each in made], [unseen(each) for each in made]):
        assert {each["status"] for each in argocd.ask("health", object_)} == {"Progressing"}
        assert {each["status"] for each in argocd.ask("kstatus", object_)} == {"InProgress"}
        assert {each["status"] for each in flux(argocd, object_)} == {"InProgress"}


def test_a_status_with_holes_is_in_progress(argocd):
    """Such a status is not healthy for want of bad news: no status, none of its parts, Ready unknown."""
    ready, *others = SERVING["status"]["conditions"]
    bare = {key: value for key, value in SERVING.items() if key != "status"}
    holes = [
        bare,
        bare | {"status": {}},
        bare | {"status": {"observedGeneration": 2}},
        bare | {"status": {"conditions": SERVING["status"]["conditions"]}},
        bare | {"status": {"observedGeneration": 2, "conditions": others}},
        bare | {"status": {"observedGeneration": 2, "conditions": [ready | {"status": "Unknown"}, *others]}},
    ]
    assert {each["status"] for each in argocd.ask("health", holes)} == {"Progressing"}
    assert {
        each["status"]
        for each in argocd.ask("health", [bare | {"status": {"observedGeneration": 2, "conditions": [ready]}}])
    } == {"Healthy"}


def test_conditions_of_others_change_nothing(argocd):
    """A condition that the script does not know is passed over."""
    objects = [object_of(case) for case in CASES.values()]
    assert argocd.ask("health", [with_others(each) for each in objects]) == argocd.ask("health", objects)


def test_one_that_is_being_deleted_is_in_progress(argocd):
    """Argo CD's own rule comes before any script."""
    going = SERVING | {"metadata": SERVING["metadata"] | {"deletionTimestamp": "2026-01-01T00:00:00Z"}}
    assert argocd.ask("health", [going])[0]["status"] == "Progressing"
    assert argocd.ask("kstatus", [going])[0]["status"] == "Terminating"


def test_without_the_script_argo_cd_reports_no_health(argocd):
    """The script decides: else an LLMService would count as healthy from its first moment."""
    assert ArgoCD(argocd.command, {}).ask("health", [SERVING]) == [{}]


@pytest.mark.parametrize("name", CASES)
def test_kstatus_reads_the_conditions_as_they_are_meant(argocd, name):
    """In progress, current or failed; Flux waits by it without being taught anything."""
    (status,) = argocd.ask("kstatus", [object_of(CASES[name])])
    assert status["status"] == KSTATUS[CASES[name].health]


@pytest.mark.parametrize("name", CASES)
def test_flux_with_the_documented_expressions_waits_for_no_suspended_service(argocd, name):
    """A service that rests as desired is current; all others are judged by kstatus."""
    (status,) = flux(argocd, [object_of(CASES[name])])
    expected = "Current" if CASES[name].health == SUSPENDED else KSTATUS[CASES[name].health]
    assert status["status"] == expected


def flux(argocd, objects):
    return argocd.ask("expressions", objects, expressions=health_check_expressions())
