"""The operator, killed anywhere and started again, brings about what an undisturbed one does."""

from __future__ import annotations

import os
import random
import re
import time
from difflib import ndiff
from pprint import pformat

import pytest
from octavo_testing.api_client import until
from octavo_testing.operator_runs import ACCOUNT, API, Operator, conditions, running, service, settled

KILLS = int(os.environ.get("OCTAVO_TEST_KILLS", "5"))  # after each step of LIFE, and then of it again
SEED = int(os.environ.get("OCTAVO_TEST_SEED", "3"))
LEASE = ("coordination.k8s.io/v1", "Lease", "octavo-operator", "octavo-system")
KINDS = [
    ("apps/v1", "Deployment"),
    ("v1", "Service"),
    ("v1", "PersistentVolumeClaim"),
    ("batch/v1", "Job"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("policy/v1", "PodDisruptionBudget"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
]
LIFE = [
    {"replicas": 3, "cache": {"size": "1Gi"}},
    {"replicas": None, "autoscaling": {"minReplicas": 2, "maxReplicas": 4}},
    {"networkPolicy": {"enabled": True}, "engine": {"maxModelLen": 512, "maxNumSeqs": 9}},
    {"cache": None, "auth": {"apiKeys": {"secretName": "keys"}}},
    {"autoscaling": None, "replicas": 2, "networkPolicy": None},
]
VOLATILE = {
    "uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "namespace", "clusterIP", "clusterIPs",
    "lastTransitionTime", "observedGeneration", "controller-uid", "batch.kubernetes.io/controller-uid", "nodePort",
    "deployment.kubernetes.io/revision",
}  # fmt: skip


def plain(thing, namespace):
    """An object without what differs between two that are the same to a person."""
    if isinstance(thing, dict):
        return {key: plain(value, namespace) for key, value in thing.items() if key not in VOLATILE}
    if isinstance(thing, list):
        return [plain(item, namespace) for item in thing]
    return re.sub(re.escape(namespace), "NAMESPACE", thing) if isinstance(thing, str) else thing


def state(plane, namespace):
    """Specs and labels of all children, owners included, and the service's status."""
    result = {}
    for version, kind in KINDS:
        for item in plane.api.list(version, kind, namespace, "octavo.dev/service"):
            if "deletionTimestamp" in item["metadata"]:
                continue
            kept = {"spec": item["spec"], "labels": item["metadata"]["labels"]}
            kept["owners"] = [owner["name"] for owner in item["metadata"].get("ownerReferences", ())]
            result[kind, item["metadata"]["name"]] = plain(kept, namespace)
    result["status"] = plain(plane.api.get(API, "LLMService", "s", namespace)["status"], namespace)
    return result


def edit(plane, namespace, step):
    if plane.api.find(API, "LLMService", "s", namespace) is None:
        plane.api.create(service("s", namespace, **{k: v for k, v in step.items() if v is not None}))
    else:
        plane.api.patch(API, "LLMService", "s", namespace, {"spec": step})


def followed(plane, namespace):
    """True if the status is of the last edit."""
    body = plane.api.get(API, "LLMService", "s", namespace)
    return body.get("status", {}).get("observedGeneration") == body["metadata"]["generation"]


@pytest.mark.slow
@pytest.mark.timeout(240 + 20 * KILLS)
def test_killed_at_random_moments_it_ends_where_an_undisturbed_one_ends(installed, namespace, tmp_path):
    """-9 a moment after each of many edits, from nothing applied to all but the status written."""
    api, rng = installed.api, random.Random(SEED)
    calm = f"{namespace}-calm"
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": calm}})
    until(lambda: api.find("v1", "ServiceAccount", "default", calm), 20)
    for number in range(KILLS):
        operator = Operator(installed.kubeconfig(ACCOUNT), tmp_path / "killed.log", "--namespace", namespace)
        try:
            operator.wait_ready()
            edit(installed, namespace, LIFE[number % len(LIFE)])
            time.sleep(rng.uniform(0.02, 0.6))
        finally:
            operator.kill()
        api.delete(*LEASE)  # what is tested here is not the waiting for it
    last = LIFE[: KILLS % len(LIFE) or len(LIFE)]
    with running(installed, tmp_path / "end.log", "--namespace", namespace, "--namespace", calm) as operator:
        for step in [*(LIFE if len(LIFE) < KILLS else []), *last]:
            edit(installed, calm, step)
            until(lambda: conditions(installed, "s", calm) and followed(installed, calm), 30)
        until(lambda: followed(installed, namespace), 30)
        settled(installed, operator, namespace)
        settled(installed, operator, calm)
        try:
            until(lambda: state(installed, namespace) == state(installed, calm), 40, "both are the same")
        except AssertionError as error:
            killed, undisturbed = (pformat(state(installed, each)).splitlines() for each in (namespace, calm))
            raise AssertionError(
                "\n".join([f"OCTAVO_TEST_SEED={SEED}: {error}", *ndiff(undisturbed, killed)])
            ) from None
    api.delete("v1", "Namespace", calm)
