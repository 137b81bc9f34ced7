"""Writes of others, and objects that the operator may not see: a hand's edit, another operator, a missing right."""

from __future__ import annotations

import pytest
from octavo_testing.api_client import until
from octavo_testing.operator_runs import ACCOUNT, API, ROOT, Operator, conditions, service, wait_for, writes

APPS, LLMS = "apps/v1", "LLMService"
RBAC = ("rbac.authorization.k8s.io/v1", "ClusterRole", "octavo-operator")


def events(plane, namespace, reason):
    found = plane.api.events(namespace, "s")
    return [e["message"] for e in found if e["involvedObject"]["kind"] == LLMS and e["reason"] == reason]


def test_a_hands_edit_is_undone_with_an_event_that_names_the_hand(installed, operator, namespace):
    """The Event says where the change belongs; an edit of the manifest itself has none."""
    installed.api.create(service("s", namespace))
    until(lambda: installed.api.find(APPS, "Deployment", "s", namespace), 30)
    installed.api.patch(API, LLMS, "s", namespace, {"spec": {"engine": {"maxModelLen": 256}}})
    until(lambda: installed.api.get(API, LLMS, "s", namespace)["status"].get("observedGeneration") == 2, 30)
    assert events(installed, namespace, "Restored") == []
    hand = {"fieldManager": "kubectl-edit"}
    edit = {"spec": {"template": {"spec": {"enableServiceLinks": True}}}}
    installed.api.patch(APPS, "Deployment", "s", namespace, edit, **hand)
    (text,) = until(lambda: events(installed, namespace, "Restored"), 30, "an Event")
    assert "what kubectl-edit changed in Deployment s was undone" in text
    spec = installed.api.get(APPS, "Deployment", "s", namespace)["spec"]["template"]["spec"]
    assert spec["enableServiceLinks"] is False


def test_of_two_operators_over_a_service_the_first_gives_way(installed, operator, namespace, tmp_path):
    """With other settings they would replace its pods in turn, for ever."""
    installed.api.create(service("s", namespace))
    until(lambda: installed.api.find(APPS, "Deployment", "s", namespace), 30)
    arguments = ("--namespace", namespace, "--leader-election-namespace", "default")
    rival = Operator(installed.kubeconfig(), tmp_path / "rival.log", *arguments)
    try:
        rival.wait_ready()
        (text,) = until(lambda: events(installed, namespace, "TwoOperators"), 60, "an Event")
        assert "octavo-system" in text
        assert "default" in text
        message = wait_for(installed, "s", namespace, "TwoOperators", "True")["message"]
        assert "that of octavo-system leaves it alone: give each its own namespaces" in message
        status = installed.api.get(API, LLMS, "s", namespace)["status"]
        assert (status["operator"], status["otherOperator"]) == ("default", "octavo-system")
        mark = installed.audit.mark()
        installed.api.patch(API, LLMS, "s", namespace, {"spec": {"engine": {"maxModelLen": 256}}})
        until(lambda: installed.api.get(API, LLMS, "s", namespace)["status"].get("observedGeneration") == 2, 30)
        assert [each for each in writes(installed, mark, namespace) if each.resource != "events"] == []
        assert conditions(installed, "s", namespace)["TwoOperators"]["status"] == "True", "the other one keeps it"
    finally:
        rival.stop()


@pytest.mark.parametrize(
    ("kind", "spec", "holds_up"),
    [("networkpolicies", {}, False), ("jobs", {}, False), ("jobs", {"cache": {"size": "1Gi"}}, True)],
)
def test_a_kind_that_may_not_be_listed_holds_up_only_what_needs_it(
    installed, operator, namespace, kind, spec, holds_up
):
    """A service that needs no such child goes on; of one that does, the status says which right is missing."""
    role = installed.api.get(*RBAC[:2], RBAC[2])
    rules = [
        {**rule, "verbs": [verb for verb in rule["verbs"] if verb != "list"]}
        if kind in rule.get("resources", ())
        else rule
        for rule in role["rules"]
    ]
    installed.api.patch(*RBAC[:2], RBAC[2], "", {"rules": rules})
    try:
        until(lambda: not can_list(installed, kind, namespace), 30, "the right is gone")
        installed.api.create(service("s", namespace, **spec))
        if holds_up:
            message = wait_for(installed, "s", namespace, "Stalled", "True", "Forbidden")["message"]
            assert "jobs.batch is forbidden" in message
            assert "config/rbac" in message
        else:
            until(lambda: installed.api.find(APPS, "Deployment", "s", namespace), 30, "it goes on")
    finally:
        installed.kubectl("apply", "-f", ROOT / "config/rbac")
    until(lambda: conditions(installed, "s", namespace).get("Stalled", {}).get("status") == "False", 60, "it heals")


def can_list(plane, kind, namespace):
    answer = plane.kubectl(
        "auth",
        "can-i",
        "list",
        kind,
        "-n",
        namespace,
        f"--as=system:serviceaccount:{ACCOUNT.replace('/', ':')}",
        check=False,
    )
    return answer.strip().startswith("yes")
