"""Stopping comes first: neither an autoscaler that has gone nor a refused spec nor a download holds it up."""

from __future__ import annotations

import pytest
from octavo_testing.api_client import ApiError, until
from octavo_testing.operator_runs import API, conditions, service, settled, wait_for

APPS, HPA = "apps/v1", "autoscaling/v2"
LLMS = "LLMService"
AUTOSCALING = {"minReplicas": 1, "maxReplicas": 6}


def replicas(plane, namespace):
    return plane.api.get(APPS, "Deployment", "s", namespace)["spec"]["replicas"]


def edit(plane, namespace, **spec):
    plane.api.patch(API, LLMS, "s", namespace, {"spec": spec})


def scaled(plane, operator, namespace, number=4):
    """Scale as the controller of HorizontalPodAutoscalers does: through /scale, under its own name."""
    settled(plane, operator, namespace)
    body = {"spec": {"replicas": number}}
    manager = {"fieldManager": "kube-controller-manager"}
    plane.api.patch(APPS, "Deployment", "s", namespace, body, subresource="scale", **manager)
    settled(plane, operator, namespace)
    assert replicas(plane, namespace) == number


@pytest.fixture
def autoscaled(installed, operator, namespace):
    """A service that its autoscaler has scaled to four."""
    installed.api.create(service("s", namespace, autoscaling=AUTOSCALING))
    until(lambda: installed.api.find(HPA, "HorizontalPodAutoscaler", "s", namespace), 30)
    scaled(installed, operator, namespace)


@pytest.mark.slow
def test_a_service_that_an_autoscaler_has_scaled_can_be_suspended(installed, operator, namespace, autoscaled):
    """Its entry in the managed fields outlives it, and means nothing then; afterwards the minimum runs again."""
    edit(installed, namespace, suspend=True)
    until(lambda: replicas(installed, namespace) == 0, 15, "it stops")
    wait_for(installed, "s", namespace, "Ready", "False", "Suspended")
    assert installed.api.find(HPA, "HorizontalPodAutoscaler", "s", namespace) is None
    settled(installed, operator, namespace)
    edit(installed, namespace, suspend=False)
    until(lambda: replicas(installed, namespace) == 1, 15, "it starts")
    scaled(installed, operator, namespace, 3)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 6])
def test_a_service_that_an_autoscaler_has_scaled_can_be_set_to_a_number(
    installed, operator, namespace, autoscaled, number
):
    """Up, down and to nothing."""
    edit(installed, namespace, autoscaling=None, replicas=number)
    until(lambda: replicas(installed, namespace) == number, 15, f"{number} replicas")
    settled(installed, operator, namespace)
    assert replicas(installed, namespace) == number
    edit(installed, namespace, replicas=2)
    until(lambda: replicas(installed, namespace) == 2, 15, "and to another")


def another_autoscaler(namespace, name="keda-hpa-s"):
    spec = {"scaleTargetRef": {"apiVersion": APPS, "kind": "Deployment", "name": "s"}, "maxReplicas": 9}
    return {
        "apiVersion": HPA,
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def test_anothers_autoscaler_is_left_its_number_as_long_as_it_is_there(installed, operator, namespace, kubelet):
    """Down to zero and up; a suspended service stops anyway, and once the autoscaler is gone the manifest counts."""
    api = installed.api
    kubelet.add_node("n1")  # or the message would be that pods have none
    api.create(service("s", namespace, replicas=2))
    until(lambda: api.find(APPS, "Deployment", "s", namespace), 30)
    api.create(another_autoscaler(namespace))
    scaled(installed, operator, namespace, 5)
    named = "spec.replicas is set by the HorizontalPodAutoscaler keda-hpa-s"
    until(lambda: named in conditions(installed, "s", namespace)["Ready"]["message"], 30, "it is named")
    assert api.get(API, LLMS, "s", namespace)["status"]["readiness"] == "0/5"
    scaled(installed, operator, namespace, 0)
    message = wait_for(installed, "s", namespace, "Ready", "False", "ScaledToZero")["message"]
    assert "the autoscaler keda-hpa-s has scaled it to zero" in message
    scaled(installed, operator, namespace, 3)
    edit(installed, namespace, suspend=True)
    until(lambda: replicas(installed, namespace) == 0, 15, "it stops")
    edit(installed, namespace, suspend=False)
    until(lambda: replicas(installed, namespace) == 2, 15, "it starts")
    scaled(installed, operator, namespace, 5)
    api.delete(HPA, "HorizontalPodAutoscaler", "keda-hpa-s", namespace)
    edit(installed, namespace, replicas=1)
    until(lambda: replicas(installed, namespace) == 1, 15, "the manifest's number")


REFUSED = {"model": {"uri": "s3://bucket/model"}}


@pytest.mark.slow
def test_a_refused_spec_does_not_hold_up_its_stopping(installed, operator, namespace):
    """Scaling down and suspending work; nothing is started for it."""
    installed.api.create(service("s", namespace, replicas=3))
    until(lambda: installed.api.find(APPS, "Deployment", "s", namespace), 30)
    settled(installed, operator, namespace)
    edit(installed, namespace, **REFUSED)
    wait_for(installed, "s", namespace, "Stalled", "True", "SchemeNotSupported")
    edit(installed, namespace, replicas=2)
    until(lambda: replicas(installed, namespace) == 2, 15, "fewer")
    edit(installed, namespace, replicas=5)
    settled(installed, operator, namespace)
    assert replicas(installed, namespace) == 2, "nothing is started for what is refused"
    edit(installed, namespace, suspend=True)
    until(lambda: replicas(installed, namespace) == 0, 15, "it stops")


def test_a_child_that_the_api_server_refuses_does_not_hold_up_stopping(installed, operator, namespace):
    """A wrong podTemplate makes the whole Deployment invalid; the number is written apart."""
    installed.api.create(service("s", namespace, replicas=2))
    until(lambda: installed.api.find(APPS, "Deployment", "s", namespace), 30)
    edit(installed, namespace, podTemplate={"spec": {"restartPolicy": "Never"}})
    wait_for(installed, "s", namespace, "Stalled", "True", "ChildInvalid")
    edit(installed, namespace, suspend=True)
    until(lambda: replicas(installed, namespace) == 0, 15, "it stops")


@pytest.mark.slow
def test_a_download_does_not_hold_up_stopping_nor_another_number(installed, operator, namespace, kubelet):
    """While the next model is downloaded, or has failed to be, the old one's replicas follow the number."""
    kubelet.run_pods = True
    kubelet.add_node("n1")
    installed.api.create(service("s", namespace, replicas=2, cache={"size": "1Gi"}))
    wait_for(installed, "s", namespace, "Ready", "True", "Serving", seconds=60)
    kubelet.run_pods = False
    edit(installed, namespace, model={"uri": "package://another"})
    kubelet.finish_pods(namespace, "app.kubernetes.io/component=preload", 2, "no such package")
    wait_for(installed, "s", namespace, "ModelCached", "False", "DownloadFailed")
    assert replicas(installed, namespace) == 2
    edit(installed, namespace, replicas=3)
    until(lambda: replicas(installed, namespace) == 3, 15, "more")
    edit(installed, namespace, replicas=1)
    until(lambda: replicas(installed, namespace) == 1, 15, "fewer")
    edit(installed, namespace, suspend=True)
    until(lambda: replicas(installed, namespace) == 0, 15, "none")


def test_a_spec_that_cannot_be_read_still_stops_where_it_says_so_plainly(installed, operator, namespace, lax_schema):
    """Whatever else is wrong in it."""
    installed.api.create(service("s", namespace, replicas=2))
    until(lambda: installed.api.find(APPS, "Deployment", "s", namespace), 30)
    wrong = {"engine": {"maxModelLen": "many"}}

    def accepted():
        try:
            edit(installed, namespace, **wrong)
        except ApiError:
            return False  # the loose schema is not in force yet
        return True

    until(accepted, 20, "the loose schema is in force")
    wait_for(installed, "s", namespace, "Stalled", "True", "InvalidSpec")
    assert replicas(installed, namespace) == 2
    edit(installed, namespace, suspend=True)
    until(lambda: replicas(installed, namespace) == 0, 15, "it stops")
    assert conditions(installed, "s", namespace)["Stalled"]["reason"] == "InvalidSpec"
