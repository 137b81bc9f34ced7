"""`Fits` in the operator: by the manifest alone. The annotation octavo.dev/model-config holds a config.json."""

from __future__ import annotations

import json

from api_client import until
from operator_runs import API, service, settled, wait_for
from planner_cases import A100_40, LLAMA_70B

CONFIG = "octavo.dev/model-config"


def create(plane, namespace, annotations, **spec):
    body = service("s", namespace, **spec)
    body["metadata"]["annotations"] = annotations
    plane.api.create(body)


def test_an_unknown_model_blocks_nothing_and_says_how_to_tell(installed, operator, namespace):
    """Unknown, with the two ways to know it."""
    model = {"uri": "hf://mistralai/Mistral-7B-Instruct-v0.2"}
    create(installed, namespace, {}, accelerator={"products": [A100_40]}, model=model)
    message = wait_for(installed, "s", namespace, "Fits", "Unknown", "ModelUnknown")["message"]
    assert "octavo plan -f FILE" in message
    assert f'kubectl annotate llms -n {namespace} s {CONFIG}="$(cat config.json)"' in message
    until(lambda: installed.api.find("apps/v1", "Deployment", "s", namespace), 20)


def test_a_model_that_does_not_fit_is_refused_before_a_pod_exists(installed, operator, namespace):
    """With what would fit; nothing is made until then."""
    card = {"products": [A100_40]}
    create(installed, namespace, {CONFIG: json.dumps(LLAMA_70B)}, accelerator=card, engine={"maxModelLen": 4096})
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
    """It is unknown again, and the message says what is wrong with it."""
    create(installed, namespace, {CONFIG: "{not json"}, accelerator={"products": [A100_40]})
    message = wait_for(installed, "s", namespace, "Fits", "Unknown", "ModelUnknown")["message"]
    assert f"the annotation {CONFIG} is not JSON" in message
    until(lambda: installed.api.find("apps/v1", "Deployment", "s", namespace), 20)
