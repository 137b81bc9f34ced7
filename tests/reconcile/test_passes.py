"""Whole passes over an API server in memory: what a pass does after a part of it was refused."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from octavo_operator.api.conditions import by_type
from octavo_operator.api.labels import SERVICE
from octavo_operator.api.names import NamespacedName
from octavo_operator.api.resources import EVENTS
from octavo_operator.api.v1alpha1 import API_VERSION, KIND
from octavo_operator.errors import ApiError
from octavo_operator.reconcile.metrics import Metrics
from octavo_operator.reconcile.reconciler import Reconciler
from octavo_operator.reconcile.rivals import Rivals
from octavo_operator.reconcile.upgrades.campaign import Campaign
from octavo_operator.reconcile.upgrades.upgrades import Upgrades
from octavo_operator.settings import Settings

KEY = NamespacedName("n", "s")
OLD = Settings(images={"octavo": "octavo/engine:0.1.0"}, version="0.1.0")
NEW = Settings(images={"octavo": "octavo/engine:0.2.0"}, version="0.2.0")
BODY = {
    "apiVersion": API_VERSION,
    "kind": KIND,
    "metadata": {"name": "s", "namespace": "n", "uid": "u", "generation": 1, "resourceVersion": "1"},
    "spec": {"model": {"uri": "hf://org/name"}, "accelerator": {"vendor": "cpu"}},
}


@dataclass
class Memory:
    """Takes every write whole; `refuses` raises the error that the API server answers."""

    refuses: Callable[[dict[str, Any]], None] = lambda _: None
    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=lambda: {(KIND, "s"): deepcopy(BODY)})
    written: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def serves(self, resource) -> bool:
        return False

    async def get(self, resource, namespace, name):
        return deepcopy(self.objects.get((resource.kind, name)))

    async def list(self, resource, namespace=None, selector="", fields=""):
        found = [each for (kind, _), each in self.objects.items() if kind == resource.kind]
        return [deepcopy(each) for each in found if SERVICE in each["metadata"].get("labels", {})]

    async def pages(self, resource, namespace=None, **_):
        yield await self.list(resource), "1"

    async def apply(self, resource, body, *, subresource="", **_):
        self.refuses(body)
        key = body["kind"], body["metadata"]["name"]
        live = self.objects.setdefault(key, {})
        if subresource:
            live["status"] = deepcopy(body["status"])
            return live
        self.written.append(" ".join(key))
        stamps = {"uid": key[0], "resourceVersion": "1", "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"}
        live |= deepcopy({**body, "metadata": stamps | body["metadata"]})
        return deepcopy(live)

    async def create(self, resource, body):
        assert resource is EVENTS
        self.events.append(body)

    async def delete(self, resource, live):
        self.written.append(f"-{live['kind']} {live['metadata']['name']}")
        self.objects.pop((live["kind"], live["metadata"]["name"]), None)

    @property
    def deployment(self) -> dict[str, Any]:
        return self.objects["Deployment", "s"]

    @property
    def status(self) -> dict[str, Any]:
        return self.objects[KIND, "s"]["status"]


def operator(memory, settings):
    metrics = Metrics()
    upgrades = Upgrades(memory, Campaign(settings.release, 1), metrics, lambda _: None)
    return Reconciler(memory, settings, "tests", None, metrics, Rivals("tests"), upgrades)


@pytest.fixture
async def memory():
    """One replica of the old image serves."""
    memory = Memory()
    await operator(memory, OLD).reconcile(KEY)
    memory.deployment["status"] = {
        "observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1
    }  # fmt: skip
    await operator(memory, OLD).reconcile(KEY)
    memory.written.clear()
    memory.events.clear()
    return memory


async def test_what_was_written_before_a_move_was_refused_is_not_written_again(memory):
    """The pass goes on from what its first half has left, and puts nothing but the record back."""

    def refuses(body):
        if body["kind"] == "Deployment" and "0.2.0" in body["spec"]["template"]["spec"]["containers"][0]["image"]:
            raise ApiError("PATCH", "deployments/s", 403, {"message": "a policy denies it"})

    memory.refuses = refuses
    del memory.objects["Service", "s"]
    unwanted = deepcopy(memory.deployment) | {"kind": "PodDisruptionBudget", "spec": {}}
    memory.objects["PodDisruptionBudget", "s"] = unwanted
    assert await operator(memory, NEW).reconcile(KEY) == "changed"
    assert sorted(memory.written) == ["-PodDisruptionBudget s", "Deployment s", "Service s"]
    assert "0.1.0" in memory.deployment["spec"]["template"]["spec"]["containers"][0]["image"]


async def test_a_field_that_a_definition_lacks_is_reported_by_an_event_too(memory):
    """The field may be known before the status is written, or be learnt by the rejection; one Event either way."""

    def refuses(body):
        if "observedGeneration" in body.get("status", {}):
            words = ".status.observedGeneration: field not declared in schema"
            raise ApiError("PATCH", "llmservices/s", 500, {"message": words})

    memory.refuses = refuses
    memory.objects[KIND, "s"]["metadata"]["generation"] = 2
    reconciler = operator(memory, OLD)
    for _ in range(3):
        await reconciler.reconcile(KEY)
        reconciler.doubt()
    assert "observedGeneration" not in memory.status
    assert [each["reason"] for each in memory.events] == ["PlanWarning"]
    assert "status.observedGeneration: not in the installed" in memory.events[0]["note"]
    assert memory.events[0]["regarding"]["kind"] == KIND


@pytest.mark.parametrize(("owner", "reason"), [("u", "ObjectTerminating"), ("former", "FormerServiceRemoved")])
async def test_an_object_that_is_being_deleted_is_said_to_be_whose_it_is(memory, owner, reason):
    """The service's own, which someone deletes, or a former service's of that name."""
    metadata = memory.objects["Service", "s"]["metadata"]
    metadata |= {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    metadata["ownerReferences"] = [{**each, "uid": owner} for each in metadata["ownerReferences"]]
    assert await operator(memory, OLD).reconcile(KEY) == "waiting"
    progressing = by_type(memory.status)["Progressing"]
    assert progressing["reason"] == reason
    assert ("of a former service" in progressing["message"]) == (owner == "former")
