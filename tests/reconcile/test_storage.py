"""The reason why a claim has no volume is reported in the words of the storage's own controllers, with the remedy."""

from __future__ import annotations

import pytest
from octavo_testing.api_client import until
from octavo_testing.operator_runs import service, wait_for


@pytest.fixture
def storage_class(installed, namespace):
    """Makes a storage class; it is gone after the test."""
    made = []

    def make(name: str) -> None:
        body = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}}
        installed.api.create({**body, "provisioner": "kubernetes.io/no-provisioner"})
        made.append(name)

    yield make
    for name in made:
        installed.api.delete("storage.k8s.io/v1", "StorageClass", name)


@pytest.mark.parametrize("preload", [True, False])
def test_a_missing_storage_class_is_named_with_the_remedy(
    installed, operator, namespace, kubelet, storage_class, preload
):
    """The volume, the download or the replica may wait; once the class is there, nothing is left of the report."""
    kubelet.bind_claims = False
    kubelet.add_node("n1")
    missing = f"missing-{namespace}"
    installed.api.create(
        service("s", namespace, cache={"size": "1Gi", "storageClassName": missing, "preload": preload})
    )
    message = wait_for(installed, "s", namespace, "Stalled", "True", "StorageClassMissing")["message"]
    assert f'storageclass.storage.k8s.io "{missing}" not found' in message
    assert "create that storage class" in message
    assert wait_for(installed, "s", namespace, "ModelCached", "False", "StorageClassMissing")["message"] == message
    storage_class(missing)
    kubelet.bind_claims = True
    until(
        lambda: installed.api.get("v1", "PersistentVolumeClaim", "s-cache", namespace)["status"]["phase"] == "Bound", 30
    )
    wait_for(installed, "s", namespace, "Stalled", "False", seconds=60)


def test_a_cluster_without_a_default_storage_class_is_reported(installed, operator, namespace, kubelet):
    """Where the manifest names none."""
    kubelet.bind_claims = False
    installed.api.create(service("s", namespace, cache={"size": "1Gi"}))
    message = wait_for(installed, "s", namespace, "Stalled", "True", "NoStorageClass")["message"]
    assert "no storage class is set" in message
    assert "cluster's default" in message
