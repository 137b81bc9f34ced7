"""Children stay what the plan says, despite any edit or deletion; and where they are, nothing is written."""

from __future__ import annotations

import os
import random
import re
import time
from collections import Counter

import pytest
from octavo_testing.api_client import until
from octavo_testing.operator_runs import API, USER, conditions, service, settled, wait_for, writes

APPS = "apps/v1"
EDITS = int(os.environ.get("OCTAVO_TEST_EDITS", "24"))
FULL = {
    "cache": {"size": "1Gi"},
    "autoscaling": {"minReplicas": 2, "maxReplicas": 4},
    "networkPolicy": {"enabled": True},
    "auth": {"apiKeys": {"secretName": "keys"}},
    "engine": {"maxModelLen": 512, "env": [{"name": "A", "value": "1"}]},
    "resources": {"requests": {"cpu": "1500m", "memory": "2048Mi"}, "limits": {"memory": "2Gi"}},
    "podTemplate": {"spec": {"terminationGracePeriodSeconds": 77, "containers": [{"name": "engine", "tty": True}]}},
}
KINDS = [
    (APPS, "Deployment", ""),
    ("v1", "Service", ""),
    ("v1", "Service", "-pods"),
    ("v1", "PersistentVolumeClaim", "-cache"),
    ("batch/v1", "Job", "-preload"),
    ("autoscaling/v2", "HorizontalPodAutoscaler", ""),
    ("policy/v1", "PodDisruptionBudget", ""),
    ("networking.k8s.io/v1", "NetworkPolicy", ""),
]
# kind → a hand's edit, and where to look whether it is undone
SLIPS = {
    "Deployment": ({"spec": {"template": {"spec": {"enableServiceLinks": True}}}}, ("spec", "template", "spec")),
    "Service": ({"spec": {"ports": [{"name": "http", "port": 8000, "targetPort": 9999}]}}, ("spec", "ports")),
    "HorizontalPodAutoscaler": ({"spec": {"maxReplicas": 9}}, ("spec", "maxReplicas")),
    "PodDisruptionBudget": ({"spec": {"maxUnavailable": 3}}, ("spec", "maxUnavailable")),
    "NetworkPolicy": ({"spec": {"policyTypes": ["Egress"]}}, ("spec", "policyTypes")),
    "PersistentVolumeClaim": ({"metadata": {"labels": {"app.kubernetes.io/name": "x"}}}, ("metadata", "labels")),
    "Job": ({"metadata": {"labels": {"app.kubernetes.io/name": "x"}}}, ("metadata", "labels")),
}


def at(thing, path):
    for key in path:
        thing = thing[key]
    return thing


def made(plane, operator, namespace, name="s", **spec):
    """A service, once the operator has done all it does for it."""
    plane.api.create(service(name, namespace, **spec))
    until(lambda: conditions(plane, name, namespace), 30, "a status")
    return settled(plane, operator, namespace)


def slip(api, rng, namespace):
    """One child at random, deleted or edited by hand; seconds until it is as it was."""
    version, kind, suffix = rng.choice(KINDS)
    name, (patch, where) = f"s{suffix}", SLIPS[kind]
    before = api.get(version, kind, name, namespace)
    began = time.monotonic()

    def restored():
        found = api.find(version, kind, name, namespace)
        return found and at(found, where) == at(before, where)

    def made_again():
        found = api.find(version, kind, name, namespace)
        return found and found["metadata"]["uid"] != before["metadata"]["uid"]

    if rng.random() < 0.5 and kind != "PersistentVolumeClaim":  # its protection outlasts its deletion
        api.delete(version, kind, name, namespace, propagationPolicy="Background")
        until(made_again, 15, f"{kind} {name} is made again")
    else:
        api.patch(version, kind, name, namespace, patch)
        until(restored, 15, f"the edit of {kind} {name} is undone")
    return time.monotonic() - began


@pytest.mark.slow
def test_edits_and_deletions_at_random_are_undone(installed, operator, namespace, record_property):
    """Any child, deleted or edited by hand, is as it was again within seconds."""
    rng = random.Random(6)
    made(installed, operator, namespace, **FULL)
    times = sorted(slip(installed.api, rng, namespace) for _ in range(EDITS))
    p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
    record_property("restored_p50_s", round(times[len(times) // 2], 3))
    record_property("restored_p99_s", round(p99, 3))
    print(f"{len(times)} restored: median {times[len(times) // 2]:.3f} s, p99 {p99:.3f} s")
    assert p99 < 5


def reconciles(operator):
    """The number of reconciles so far that succeeded."""
    lines = operator.ask("/metrics")[1].splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("octavo_operator_reconciles_total{"))


def test_a_second_reconcile_writes_nothing(installed, operator, namespace):
    """An event that changes nothing (a label on the service) makes a reconcile, and the reconcile no write."""
    made(installed, operator, namespace, **FULL)
    mark = settled(installed, operator, namespace, quiet=5)  # until the controllers have all had their first look
    before = reconciles(operator)
    installed.api.patch(API, "LLMService", "s", namespace, {"metadata": {"labels": {"seen": "yes"}}})
    installed.api.patch("apps/v1", "Deployment", "s", namespace, {"metadata": {"annotations": {"seen": "yes"}}})
    until(lambda: reconciles(operator) > before, 10, "a reconcile")
    time.sleep(2)
    assert writes(installed, mark, namespace) == []


def counted_writes(operator):
    """`octavo_operator_writes_total` by verb, over all kinds but the Lease, whose session is the Lease's own."""
    counts = Counter()
    for line in operator.ask("/metrics")[1].splitlines():
        if found := re.fullmatch(r'octavo_operator_writes_total\{kind="(\w+)",verb="(\w+)"\} (\S+)', line):
            counts[found[2]] += int(float(found[3]))
    return counts


@pytest.mark.slow
def test_every_write_is_counted(installed, operator, namespace):
    """The metric grows by what the audit log has of this operator: verb by verb, refusals left out."""
    mark = settled(installed, operator)
    before = counted_writes(operator)
    made(installed, operator, namespace)
    installed.api.patch(API, "LLMService", "s", namespace, {"spec": {"replicas": 2}})
    settled(installed, operator)
    installed.api.delete(API, "LLMService", "s", namespace)
    settled(installed, operator)
    verbs = {"patch": "apply"}
    seen = Counter(verbs.get(a.verb, a.verb) for a in writes(installed, mark) if a.status < 300)
    assert seen["apply"] > 3
    assert counted_writes(operator) - before == seen


@pytest.mark.slow
def test_an_idle_operator_writes_nothing(installed, operator, namespace):
    """Nothing happens, nothing is written: neither a status nor an annotation nor an Event."""
    made(installed, operator, namespace, **FULL)
    mark = settled(installed, operator, namespace, quiet=5)  # until the controllers have all had their first look
    time.sleep(float(os.environ.get("OCTAVO_TEST_IDLE_S", "8")))
    assert writes(installed, mark, namespace) == []
    assert operator.ask("/healthz")[0] == 200
    body = installed.api.get(API, "LLMService", "s", namespace)
    assert "finalizers" not in body["metadata"]
    assert not any("kopf" in key for key in body["metadata"].get("annotations", {}))


def test_an_optional_child_that_is_no_longer_wanted_is_removed_and_only_that(installed, operator, namespace):
    """Without autoscaling and policy: autoscaler, budget and policy go; an object of another author stays."""
    api = installed.api
    made(installed, operator, namespace, **FULL)
    foreign = api.get("networking.k8s.io/v1", "NetworkPolicy", "s", namespace)
    foreign["metadata"] = {"name": "foreign", "namespace": namespace, "labels": foreign["metadata"]["labels"]}
    api.create(foreign)
    spec = {"autoscaling": None, "networkPolicy": None, "replicas": 1, "cache": None}
    api.patch(API, "LLMService", "s", namespace, {"spec": spec})
    for version, kind, suffix in KINDS[3:]:
        until(
            lambda v=version, k=kind, n=f"s{suffix}": (
                (found := api.find(v, k, n, namespace)) is None or "deletionTimestamp" in found["metadata"]
            ),
            15,
            f"{kind} is removed",
        )
    assert api.find("networking.k8s.io/v1", "NetworkPolicy", "foreign", namespace) is not None
    assert api.find(APPS, "Deployment", "s", namespace) is not None
    assert api.find("v1", "Service", "s-pods", namespace) is not None


def test_a_pass_lists_what_the_service_may_have_and_no_other_kind(installed, operator, namespace):
    """A thousand services are looked at for as much; one whose kind a watch shows is found nevertheless."""
    api = installed.api
    mark = made(installed, operator, namespace)
    api.patch(API, "LLMService", "s", namespace, {"metadata": {"labels": {"looked": "at"}}})

    def listed():
        asked = [each for each in installed.audit.asked(USER, mark) if each.namespace == namespace]
        return sorted(each.resource for each in asked if each.verb == "list")

    until(lambda: len(listed()) >= 3, 10, "it is looked at")
    settled(installed, operator, namespace)
    assert set(listed()) <= {"deployments", "events", "pods", "services"}
    owner = api.get(APPS, "Deployment", "s", namespace)["metadata"]
    stray = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "spec": {"maxUnavailable": 1}}
    metadata = {"name": "s", "namespace": namespace, "labels": owner["labels"]}
    api.create({**stray, "metadata": metadata | {"ownerReferences": owner["ownerReferences"]}})
    until(lambda: api.find("policy/v1", "PodDisruptionBudget", "s", namespace) is None, 15, "it is removed")


def test_what_another_manager_applied_is_left_alone(installed, operator, namespace):
    """Fields that the plan does not have stay, and so does one it has but another took; a condition says so."""
    api = installed.api
    made(installed, operator, namespace)
    base = {"apiVersion": APPS, "kind": "Deployment", "metadata": {"name": "s", "namespace": namespace}}
    api.apply({**base, "spec": {"minReadySeconds": 3, "revisionHistoryLimit": 9}}, "alice")
    condition = until(
        lambda: (c := conditions(installed, "s", namespace)["Ready"]) and "alice" in c["message"] and c, 15
    )
    assert "spec.revisionHistoryLimit is set by alice" in condition["message"]
    settled(installed, operator, namespace)
    spec = api.get(APPS, "Deployment", "s", namespace)["spec"]
    assert (spec["minReadySeconds"], spec["revisionHistoryLimit"]) == (3, 9)
    api.patch(APPS, "Deployment", "s", namespace, {"spec": {"template": {"spec": {"enableServiceLinks": True}}}})
    until(lambda: not api.get(APPS, "Deployment", "s", namespace)["spec"]["template"]["spec"]["enableServiceLinks"])


def test_an_object_of_that_name_which_is_anothers_is_not_taken(installed, operator, namespace):
    """A Service of the same name stays as it is; the condition names it."""
    api = installed.api
    ports = [{"port": 1234}]
    api.create(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "s", "namespace": namespace},
            "spec": {"ports": ports},
        }
    )
    api.create(service("s", namespace))
    assert "belongs to another owner" in wait_for(installed, "s", namespace, "Stalled", "True", "NameTaken")["message"]
    assert api.get("v1", "Service", "s", namespace)["spec"]["ports"][0]["port"] == 1234
    api.delete("v1", "Service", "s", namespace)
    until(lambda: conditions(installed, "s", namespace)["Stalled"]["status"] == "False", 70, "it heals by itself")


def test_a_deleted_service_takes_its_children_along(installed, operator, namespace):
    """Owner references do it, and without a finalizer the deletion is instant."""
    api = installed.api
    made(installed, operator, namespace, replicas=2)
    api.delete(API, "LLMService", "s", namespace)
    assert api.find(API, "LLMService", "s", namespace) is None
    until(lambda: api.find(APPS, "Deployment", "s", namespace) is None, 60, "the Deployment is gone")


def test_a_child_that_lost_its_labels_or_its_owner_gets_them_back(installed, operator, namespace):
    """Without its label no watch sees it any more; that it is gone from the watch is seen."""
    api = installed.api
    made(installed, operator, namespace)
    before = api.get("v1", "Service", "s", namespace)["metadata"]
    for lost in ({"labels": {"octavo.dev/service": None}}, {"ownerReferences": None}):
        api.patch("v1", "Service", "s", namespace, {"metadata": lost})
        until(
            lambda: (
                (now := api.get("v1", "Service", "s", namespace)["metadata"])
                and now.get("labels") == before["labels"]
                and now.get("ownerReferences") == before["ownerReferences"]
            ),
            10,
            f"{lost} is undone",
        )


def test_kubectl_scale_of_a_fixed_number_is_undone(installed, operator, namespace):
    """Such a scale is a person's slip: the number stands in the manifest."""
    made(installed, operator, namespace, replicas=2)
    installed.kubectl("scale", "deployment/s", "--replicas=5", "-n", namespace)
    until(lambda: installed.api.get(APPS, "Deployment", "s", namespace)["spec"]["replicas"] == 2, 10)
