"""Drift between a live object and the desired one is detected."""

from __future__ import annotations

from copy import deepcopy

import pytest

from octavo_operator.cluster.drift import differs, without_others

DESIRED = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "s", "namespace": "n", "labels": {"a": "b"}},
    "spec": {
        "replicas": 2,
        "template": {
            "spec": {
                "containers": [
                    {
                        "name": "engine",
                        "args": ["--x"],
                        "env": [{"name": "A", "value": ""}],
                        "resources": {"requests": {"cpu": "1500m", "memory": "2048Mi"}},
                        "ports": [{"containerPort": 8000, "protocol": "TCP"}],
                    }
                ],
                "volumes": [{"name": "tmp", "emptyDir": {}}],
            }
        },
    },
}
OWNED = {"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {"f:replicas": {}, "f:template": {"f:spec": {}}}}


def live(**owners):
    """The object as the server would have it: defaults filled in, quantities in its own spelling."""
    result = deepcopy(DESIRED)
    spec = result["spec"]
    spec["strategy"] = {"type": "RollingUpdate"}
    container = spec["template"]["spec"]["containers"][0]
    container["imagePullPolicy"] = "IfNotPresent"
    container["env"] = [{"name": "A"}, {"name": "INJECTED", "value": "1"}]
    container["resources"] = {"requests": {"cpu": "1.5", "memory": "2Gi"}}
    container["volumeMounts"] = [{"name": "sidecar", "mountPath": "/x"}]
    spec["template"]["spec"]["containers"].append({"name": "sidecar", "image": "proxy"})
    fields = {"octavo": OWNED, **owners}
    result["metadata"]["managedFields"] = [
        {"manager": manager, "operation": "Apply", "fieldsV1": owned} for manager, owned in fields.items()
    ]
    return result


def test_defaults_spellings_and_additions_of_others_are_no_difference():
    assert not differs(DESIRED, live())


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec.update(replicas=3),
        lambda spec: spec["template"]["spec"]["containers"][0].update(args=["--x", "--y"]),
        lambda spec: spec["template"]["spec"]["containers"][0]["env"].pop(0),
        lambda spec: spec["template"]["spec"]["containers"].pop(0),
        lambda spec: spec["template"]["spec"].update(volumes=[]),
        lambda spec: spec["template"]["spec"]["containers"][0]["resources"]["requests"].update(memory="1Gi"),
        lambda spec: spec["template"]["spec"]["containers"][0]["ports"][0].update(protocol="UDP"),
    ],
)
def test_a_changed_or_missing_value_is_a_difference(change):
    edited = live()
    change(edited["spec"])
    assert differs(DESIRED, edited)


def test_a_field_that_we_own_and_no_longer_desire_is_a_difference():
    desired = deepcopy(DESIRED)
    del desired["spec"]["replicas"]
    assert differs(desired, live())


def test_a_claim_that_was_made_larger_is_no_difference():
    desired = {"metadata": {"name": "c"}, "spec": {"resources": {"requests": {"storage": "10Gi"}}}}
    larger = {"metadata": {"name": "c"}, "spec": {"resources": {"requests": {"storage": "20Gi"}}}}
    assert not differs(desired, larger)
    assert differs(larger, desired)


def test_what_another_applied_with_another_value_is_left_out_and_named():
    theirs = {"f:spec": {"f:replicas": {}, "f:strategy": {}}}
    edited = live(alice=theirs)
    edited["spec"]["replicas"] = 5
    desired, held = without_others(DESIRED, edited)
    assert held == ("spec.replicas is set by alice",)
    assert "replicas" not in desired["spec"]
    assert DESIRED["spec"]["replicas"] == 2


def test_what_another_applied_with_our_value_is_shared():
    desired, held = without_others(DESIRED, live(alice={"f:spec": {"f:replicas": {}}}))
    assert held == ()
    assert desired == DESIRED
