"""One child's refusal is one child's; and what comes first."""

from __future__ import annotations

import pytest
from octavo_testing.planner_cases import CPU, claim, service

from octavo_operator.api.observed import Observed
from octavo_operator.children import render
from octavo_operator.errors import ApiError
from octavo_operator.planner import plan
from octavo_operator.reconcile.applying import Applier
from octavo_operator.settings import Settings


class Server:
    """Answers as an API server without any object; `refuses` has the status with which it refuses a kind."""

    def __init__(self, refuses=None):
        self.refuses = refuses or {}
        self.written = []

    async def get(self, resource, namespace, name):
        return None

    async def apply(self, resource, body, **_):
        if (status := self.refuses.get(body["kind"])) is not None:
            raise ApiError("PATCH", body["kind"], status, {"reason": "Conflict", "message": "somebody was quicker"})
        self.written.append(body["kind"])
        return body

    async def delete(self, resource, live):
        self.written.append(f"-{live['kind']}")


async def applied(server, observed=Observed(), **spec):  # noqa: B008 — frozen
    body = service(accelerator=CPU, **spec)
    body = body.model_copy(update={"metadata": body.metadata.model_copy(update={"uid": "u"})})
    made = plan(body, observed, Settings())
    return await Applier(server, made, observed, {}).run(render(made))


async def test_a_conflict_about_one_child_leaves_the_others_to_be_made():
    """The conflict is passed on, so that the service is looked at again once its status is written."""
    server = Server({"Service": 409})
    outcome = await applied(server, replicas=2)
    assert server.written == ["Deployment", "PodDisruptionBudget"]
    assert outcome.conflict is not None
    assert outcome.rejected == []


async def test_a_network_policy_is_in_force_before_any_pod_exists():
    server = Server()
    await applied(server, networkPolicy={"enabled": True}, cache={})
    assert server.written[0] == "NetworkPolicy"
    assert server.written.index("NetworkPolicy") < server.written.index("Job")


async def test_a_claim_that_is_no_longer_named_is_kept_where_it_has_a_volume():
    """One without a volume holds nothing, and goes."""
    for phase, written, kept in (
        ("Bound", [], ["svc-cache"]),
        ("Lost", [], ["svc-cache"]),
        ("Pending", ["-PersistentVolumeClaim"], []),
    ):
        server, owned = Server(), claim(phase=phase)
        owned["metadata"]["ownerReferences"] = [{"uid": "u", "controller": True}]
        outcome = await applied(server, Observed(children=(owned,)))
        assert [each for each in server.written if each.startswith("-")] == written
        assert outcome.kept == kept


@pytest.mark.parametrize(
    ("phase", "cache", "again"),
    [
        ("Pending", {"accessMode": "ReadWriteOnce"}, True),
        ("Pending", {"storageClassName": "files"}, True),
        ("Pending", {}, False),
        ("Bound", {"storageClassName": "files"}, False),
    ],
)
async def test_a_claim_without_a_volume_is_made_again_where_it_asks_for_another_kind(phase, cache, again):
    """The API server changes neither its mode nor its class; without a volume there is nothing to lose."""
    server, live = Server(), claim(phase=phase, mode="ReadWriteMany")
    live["metadata"]["ownerReferences"] = [{"uid": "u", "controller": True}]
    live["spec"]["storageClassName"] = "disks"
    await applied(server, Observed(children=(live,)), cache=cache, replicas=2)
    assert ("-PersistentVolumeClaim" in server.written) == again


@pytest.mark.parametrize(("labels", "applied_again"), [({}, False), ({"app.kubernetes.io/name": "edited"}, True)])
async def test_a_job_that_exists_keeps_its_template(labels, applied_again):
    """What an admission webhook added to its template is no drift, and the template can't be changed: 422 while it
    downloads. A label that someone edited is restored."""
    server = Server()
    await applied(server, cache={})
    body = service(accelerator=CPU, cache={})
    body = body.model_copy(update={"metadata": body.metadata.model_copy(update={"uid": "u"})})
    (job,) = [each for each in render(plan(body, Observed(), Settings())) if each["kind"] == "Job"]
    job["spec"]["template"]["spec"]["tolerations"] = [{"key": "added", "operator": "Exists"}]
    job["metadata"]["labels"] |= labels
    server = Server()
    await applied(server, Observed(children=(job,)), cache={})
    assert ("Job" in server.written) == applied_again
    assert "-Job" not in server.written
