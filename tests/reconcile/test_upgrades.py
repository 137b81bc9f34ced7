"""An operator that renders services otherwise replaces them one after the other, as a new version of the chart would."""

from __future__ import annotations

import time

import pytest
from octavo_testing.api_client import until
from octavo_testing.fake_kubelet import Ended, State
from octavo_testing.operator_runs import API, conditions, running, service, settled, wait_for

from octavo_operator.reconcile.upgrades.rendering import ANNOTATION

LLMS = "LLMService"
OLD, NEW = "octavo/engine:0.1.0-cuda", "octavo/engine:0.2.0-cuda"
L4 = {"products": ["NVIDIA-L4"]}


def engines(name):
    return f"octavo.dev/service={name},app.kubernetes.io/component=engine"


@pytest.fixture
def log(tmp_path):
    return tmp_path / "operator.log"


@pytest.fixture
def operated(installed, namespace, log):
    """An operator of this namespace with a default image."""

    def start(image, *more):
        return running(installed, log, "--namespace", namespace, f"--image=octavo-cuda={image}", *more)

    return start


@pytest.fixture
def plane(installed):
    return installed


def create(plane, kubelet, namespace, names, **spec):
    """Services on as many GPUs as they need, which serve."""
    kubelet.add_node(f"gpus-{namespace}", gpus=len(names), product="NVIDIA-L4")
    for name in names:
        plane.api.create(service(name, namespace, accelerator=L4, **spec))
    for name in names:
        kubelet.mark_pods_ready(namespace, engines(name))
        wait_for(plane, name, namespace, "Ready", "True", "Serving")


def template(plane, namespace, name):
    return plane.api.get("apps/v1", "Deployment", name, namespace)["spec"]["template"]


def image(plane, namespace, name):
    return template(plane, namespace, name)["spec"]["containers"][0]["image"]


def images(plane, namespace, names):
    return {name: image(plane, namespace, name) for name in names}


def which(plane, namespace, names, wanted=NEW):
    return [name for name, has in images(plane, namespace, names).items() if has == wanted]


def reason(plane, namespace, name):
    return conditions(plane, name, namespace).get("UpToDate", {}).get("reason")


def serve(kubelet, namespace, name, wanted, plane):
    """Make the service's new pod ready as soon as it is there."""

    def there():
        pods = [
            pod
            for pod in plane.api.list("v1", "Pod", namespace, engines(name))
            if "deletionTimestamp" not in pod["metadata"] and pod["spec"]["containers"][0]["image"] == wanted
        ]
        return pods if pods and pods[0]["spec"].get("nodeName") else None

    for pod in until(there, 30, f"{name} has a pod of {wanted}"):
        kubelet.set_pod(pod, State(ready=True))


@pytest.mark.slow
def test_three_services_on_full_gpus_move_one_at_a_time(plane, operated, namespace, kubelet):
    """The next one when the last one serves; an operator that is killed meanwhile changes nothing of it."""
    names = ["a", "b", "c"]
    with operated(OLD):
        create(plane, kubelet, namespace, names)
        until(lambda: all(reason(plane, namespace, name) == "UpToDate" for name in names), 20, "all are up to date")
    with operated(NEW) as operator:
        (first,) = until(lambda: which(plane, namespace, names), 30, "one moves")
        settled(plane, operator, namespace)
        assert which(plane, namespace, names) == [first]
        waits = conditions(plane, next(name for name in names if name != first), namespace)["UpToDate"]
        assert (waits["status"], waits["reason"]) == ("False", "UpgradePending")
        assert "upgrades.maxConcurrent" in waits["message"]
        assert reason(plane, namespace, first) == "Upgrading"
        operator.kill()
    with operated(NEW) as operator:
        settled(plane, operator, namespace)
        assert which(plane, namespace, names) == [first]
        moved = [first]
        while len(moved) < len(names):
            serve(kubelet, namespace, moved[-1], NEW, plane)
            wait_for(plane, moved[-1], namespace, "UpToDate", "True")
            count = len(moved) + 1
            until(lambda count=count: len(which(plane, namespace, names)) == count, 30, f"the {count}th moves")
            settled(plane, operator, namespace)
            now = which(plane, namespace, names)
            assert len(now) == count
            moved += [name for name in now if name not in moved]
        serve(kubelet, namespace, moved[-1], NEW, plane)
        wait_for(plane, moved[-1], namespace, "UpToDate", "True")
        assert plane.api.get(API, LLMS, first, namespace)["status"]["upgrade"]["image"] == NEW


@pytest.mark.slow
def test_one_that_never_serves_goes_back_and_three_in_a_row_stop_the_campaign(plane, operated, namespace, kubelet):
    names = ["a", "b", "c", "d"]
    with operated(OLD):
        create(plane, kubelet, namespace, names)
    failed = []
    with operated(NEW) as operator:
        while len(failed) < 3:
            (moving,) = until(lambda: which(plane, namespace, names), 30, "one moves")
            assert moving not in failed
            crash(plane, kubelet, namespace, moving)
            wait_for(plane, moving, namespace, "UpToDate", "False", "UpgradeFailed")
            until(lambda moving=moving: image(plane, namespace, moving) == OLD, 20, "it goes back")
            failed.append(moving)
            serve(kubelet, namespace, moving, OLD, plane)
            wait_for(plane, moving, namespace, "Ready", "True", "Serving")
        (rest,) = set(names) - set(failed)
        said = wait_for(plane, rest, namespace, "UpToDate", "False", "UpgradesStopped")["message"]
        assert all(f"{namespace}/{name}" in said for name in failed)
        assert "octavo.dev/upgrade=" in said
        settled(plane, operator, namespace)
        assert images(plane, namespace, names) == dict.fromkeys(names, OLD)
        assert "octavo_operator_upgrades_stopped 1.0" in operator.ask("/metrics")[1]
        message = conditions(plane, failed[0], namespace)["UpToDate"]["message"]
        assert "died of the new image" in message
        assert {event["reason"] for event in plane.api.list("events.k8s.io/v1", "Event", namespace)} >= {
            "UpgradeFailed"
        }
    with operated(NEW) as operator:  # it remembers
        settled(plane, operator, namespace)
        assert images(plane, namespace, names) == dict.fromkeys(names, OLD)
        # A person asks for one of those again, as the message says; the others follow once it serves.
        command = conditions(plane, failed[1], namespace)["UpToDate"]["message"].partition("octavo.dev/upgrade=")[2]
        annotate(plane, namespace, failed[1], command)
        until(lambda: which(plane, namespace, names) == [failed[1]], 30, "it moves again")
        serve(kubelet, namespace, failed[1], NEW, plane)
        until(lambda: image(plane, namespace, rest) == NEW, 30, "the campaign goes on")


def crash(plane, kubelet, namespace, name):
    def new_pods():
        pods = plane.api.list("v1", "Pod", namespace, engines(name))
        return [
            pod for pod in pods
            if pod["spec"]["containers"][0]["image"] == NEW and pod["spec"].get("nodeName")
        ]  # fmt: skip

    until(new_pods, 30, "its new pod has a node")
    kubelet.crash_pods(namespace, engines(name), Ended(1, message="died of the new image"))


def annotate(plane, namespace, name, value):
    plane.api.patch(API, LLMS, name, namespace, {"metadata": {"annotations": {"octavo.dev/upgrade": value}}})


@pytest.mark.slow
def test_a_manual_service_waits_for_its_annotation_and_an_edit_keeps_its_image(plane, operated, namespace, kubelet):
    with operated(OLD):
        create(plane, kubelet, namespace, ["a"], rollout={"upgradePolicy": "Manual"})
    with operated(NEW) as operator:
        said = wait_for(plane, "a", namespace, "UpToDate", "False", "UpgradeAvailable")["message"]
        assert NEW in said
        plane.api.patch(API, LLMS, "a", namespace, {"spec": {"engine": {"maxNumSeqs": 17}}})
        until(lambda: "17" in template(plane, namespace, "a")["spec"]["containers"][0]["args"], 20, "the edit")
        assert image(plane, namespace, "a") == OLD
        serve(kubelet, namespace, "a", OLD, plane)
        wait_for(plane, "a", namespace, "Ready", "True", "Serving")
        settled(plane, operator, namespace)
        assert image(plane, namespace, "a") == OLD
        annotate(plane, namespace, "a", said.rpartition("octavo.dev/upgrade=")[2])
        until(lambda: image(plane, namespace, "a") == NEW, 20, "it is taken")


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["status", "record", "both"])
def test_a_pin_that_is_lost_is_read_from_the_live_deployment(plane, operated, namespace, kubelet, lost):
    """A restored backup has no status; the Deployment of an older operator has no record."""
    with operated(OLD):
        create(plane, kubelet, namespace, ["a"])
    if lost in {"status", "both"}:
        plane.api.patch(API, LLMS, "a", namespace, {"status": None}, subresource="status")
    if lost in {"record", "both"}:
        plane.api.patch("apps/v1", "Deployment", "a", namespace, {"metadata": {"annotations": {ANNOTATION: None}}})
    uid = plane.api.list("v1", "Pod", namespace, engines("a"))[0]["metadata"]["uid"]
    with operated(NEW, "--max-concurrent-upgrades=0") as operator:
        wait_for(plane, "a", namespace, "UpToDate", "False", "UpgradePending")
        settled(plane, operator, namespace)
        assert image(plane, namespace, "a") == OLD
        assert plane.api.get(API, LLMS, "a", namespace)["status"]["upgrade"]["image"] == OLD
        assert [pod["metadata"]["uid"] for pod in plane.api.list("v1", "Pod", namespace, engines("a"))] == [uid]


FORMER = """
from octavo_operator.api import labels

of_this_operator = labels.labels
labels.labels = lambda *given: of_this_operator(*given) | {"former": "operator"}
"""


@pytest.mark.slow
def test_what_another_operator_renders_otherwise_waits_as_an_image_does(
    plane, operated, namespace, kubelet, tmp_path, monkeypatch
):
    """The image is the same; the former operator gave pods a label that this one does not give."""
    (tmp_path / "sitecustomize.py").write_text(FORMER)
    with monkeypatch.context() as patched:
        patched.setenv("PYTHONPATH", str(tmp_path))
        with operated(OLD):
            create(plane, kubelet, namespace, ["a", "b"])

    def formers():
        return [name for name in ("a", "b") if "former" in template(plane, namespace, name)["metadata"]["labels"]]

    assert formers() == ["a", "b"]
    with operated(OLD) as operator:
        (waits,) = until(lambda: formers() if len(formers()) == 1 else None, 30, "one moves")
        settled(plane, operator, namespace)
        assert formers() == [waits]
        assert reason(plane, namespace, waits) == "UpgradePending"
        # What a hand changes meanwhile is undone, to what the service had.
        change = {"spec": {"template": {"metadata": {"labels": {"former": "hand"}}}}}
        plane.api.patch("apps/v1", "Deployment", waits, namespace, change)
        until(lambda: template(plane, namespace, waits)["metadata"]["labels"]["former"] == "operator", 20, "undone")


@pytest.mark.slow
def test_a_service_that_does_not_run_or_names_its_image_is_not_held_back(plane, operated, namespace, kubelet):
    with operated(OLD):
        create(plane, kubelet, namespace, ["a", "b"])
        plane.api.patch(API, LLMS, "a", namespace, {"spec": {"suspend": True}})
        plane.api.create(service("never", namespace, accelerator={"products": ["NVIDIA-H200"]}))
        wait_for(plane, "never", namespace, "Ready", "False")
        wait_for(plane, "a", namespace, "Ready", "False", "Suspended")
    with operated(NEW, "--max-concurrent-upgrades=0"):
        until(lambda: which(plane, namespace, ["a", "never"]) == ["a", "never"], 30, "what does not run moves")
        plane.api.patch(API, LLMS, "b", namespace, {"spec": {"engine": {"image": {"tag": "0.1.5"}}}})
        until(lambda: image(plane, namespace, "b") == "octavo/engine:0.1.5", 20, "a person's image")


@pytest.mark.slow
def test_a_template_that_the_api_server_refuses_is_passed_over(plane, operated, namespace, kubelet):
    """Nothing was replaced, and the next service has its turn."""
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": namespace},
        "spec": {
            "matchConstraints": {"resourceRules": [
                {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["deployments"]}
            ]},
            "validations": [{"expression": f"object.spec.template.spec.containers[0].image != '{NEW}'"}],
        },
    }  # fmt: skip
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": namespace},
        "spec": {
            "policyName": namespace,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}},
        },
    }
    with operated(OLD):
        create(plane, kubelet, namespace, ["a"])
    plane.api.create(policy)
    plane.api.create(binding)
    try:
        time.sleep(2)  # until the API server has compiled it
        with operated(NEW):
            said = wait_for(plane, "a", namespace, "UpToDate", "False", "UpgradeFailed")["message"]
            assert "ValidatingAdmissionPolicy" in said
            assert image(plane, namespace, "a") == OLD
            assert conditions(plane, "a", namespace)["Ready"]["status"] == "True"
    finally:
        plane.api.delete("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding", namespace)
        plane.api.delete("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", namespace)
