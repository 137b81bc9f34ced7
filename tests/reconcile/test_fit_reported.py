"""`Fits` in the operator: by the manifest alone. The annotation octavo.dev/model-config holds a config.json."""

from __future__ import annotations

import json

import pytest
from octavo_testing.api_client import until
from octavo_testing.operator_runs import API, service, settled, wait_for
from octavo_testing.planner_cases import A100_40, LLAMA_70B

CONFIG = "octavo.dev/model-config"


def create(plane, namespace, annotations, **spec):
    body = service("s", namespace, **spec)
    body["metadata"]["annotations"] = annotations
    plane.api.create(body)


def test_an_unknown_model_blocks_nothing_and_says_how_to_describe_it(installed, operator, namespace):
    """Unknown, with the two ways to know it."""
    model = {"uri": "hf://mistralai/Mistral-7B-Instruct-v0.2"}
    create(installed, namespace, {}, accelerator={"products": [A100_40]}, model=model)
    message = wait_for(installed, "s", namespace, "Fits", "Unknown", "ModelUnknown")["message"]
    assert "octavo plan -f FILE" in message
    assert f'kubectl annotate llms -n {namespace} s {CONFIG}="$(cat config.json)"' in message
    until(lambda: installed.api.find("apps/v1", "Deployment", "s", namespace), 20)


def test_a_model_that_does_not_fit_is_refused_before_a_pod_exists(installed, operator, namespace):
    """With what would fit; nothing is made until then."""
    gpu = {"products": [A100_40]}
    create(installed, namespace, {CONFIG: json.dumps(LLAMA_70B)}, accelerator=gpu, engine={"maxModelLen": 4096})
    message = wait_for(installed, "s", namespace, "Fits", "False", "DoesNotFit")["message"]
    assert "engine.tensorParallelSize: 4" in message
    assert wait_for(installed, "s", namespace, "Stalled", "True", "DoesNotFit")
    settled(installed, operator, namespace)
    assert installed.api.list("apps/v1", "Deployment", namespace) == []
    engine = {"spec": {"engine": {"tensorParallelSize": 4}}}
    installed.api.patch(API, "LLMService", "s", namespace, engine)
    wait_for(installed, "s", namespace, "Fits", "True", "Fits")
    until(lambda: installed.api.find("apps/v1", "Deployment", "s", namespace), 20)


def test_an_annotation_that_describes_nothing_blocks_nothing(installed, operator, namespace):
    """The fit is unknown again, and the message says what is wrong with the annotation."""
    create(installed, namespace, {CONFIG: "{not json"}, accelerator={"products": [A100_40]})
    message = wait_for(installed, "s", namespace, "Fits", "Unknown", "ModelUnknown")["message"]
    assert f"the annotation {CONFIG} is not JSON" in message
    until(lambda: installed.api.find("apps/v1", "Deployment", "s", namespace), 20)


PODS = "octavo.dev/service=s,app.kubernetes.io/component=engine"
TWO_GPUS = {"maxModelLen": 4096, "tensorParallelSize": 2}


@pytest.mark.slow
def test_an_edit_that_does_not_fit_ends_no_replica_that_serves(installed, operator, namespace, kubelet):
    """What runs is kept as it is, and so is only what stays as it is: an edit would end it for one that cannot start."""
    kubelet.add_node("n1", gpus=4, product=A100_40)
    gpu, ignore = {"products": [A100_40]}, "octavo.dev/ignore-fit"
    annotations = {CONFIG: json.dumps(LLAMA_70B), ignore: "true"}
    create(installed, namespace, annotations, accelerator=gpu, engine=TWO_GPUS)
    before = kubelet.mark_pods_ready(namespace, PODS)
    wait_for(installed, "s", namespace, "Ready", "True", "Serving")
    settled(installed, operator, namespace)
    api = installed.api
    api.patch(API, "LLMService", "s", namespace, {"metadata": {"annotations": {ignore: None}}})
    wait_for(installed, "s", namespace, "Fits", "False", "AlreadyServing")
    wait_for(installed, "s", namespace, "Stalled", "False")
    api.patch(API, "LLMService", "s", namespace, {"spec": {"engine": {"maxNumSeqs": 7}}})
    wait_for(installed, "s", namespace, "Stalled", "True", "DoesNotFit")
    ready = wait_for(installed, "s", namespace, "Ready", "True", "DoesNotFit")
    assert "what runs is kept: 1 of 1 replicas answer" in ready["message"]
    settled(installed, operator, namespace)
    assert [pod["metadata"]["name"] for pod in api.list("v1", "Pod", namespace, PODS)] == before
    api.patch(API, "LLMService", "s", namespace, {"spec": {"engine": {"maxNumSeqs": None}}})
    wait_for(installed, "s", namespace, "Stalled", "False")
