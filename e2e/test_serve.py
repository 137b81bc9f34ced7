"""A manifest becomes a URL that answers, wherever the model comes from."""

from __future__ import annotations

import json
import time

import pytest

from e2e.world import HUB

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
GATED = "octavo-e2e/gated"
QUESTION = {"prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}


def answer(world, name, namespace):
    """The service's answer through its Service."""
    status, text = world.ask(f"{world.url(name, namespace)}/v1/completions", {**QUESTION, "model": name})
    assert status == 200, text
    return json.loads(text)["choices"][0]["text"]


@pytest.mark.short
def test_a_model_from_a_package_index(octavo, namespace, record_property):
    """A minimal LLMService of a package:// model is Ready, and answers through its Service"""
    octavo.apply(octavo.service("smollm2", namespace))
    record_property("ready after", f"{octavo.wait_ready('smollm2', namespace):.0f} s")
    assert "Paris" in answer(octavo, "smollm2", namespace)
    status = octavo.get("llms", "smollm2", namespace)["status"]
    assert status["readiness"] == "1/1"
    assert octavo.ask(f"{status['url']}/models")[0] == 200, "the URL that the status names"


def test_a_model_from_a_hub(octavo, namespace):
    """An hf:// model is fetched from the hub that HF_ENDPOINT names"""
    octavo.apply(octavo.service("hub", namespace, model={"uri": f"hf://{MODEL}", "servedNames": ["hub"]}))
    octavo.wait_ready("hub", namespace)
    assert "Paris" in answer(octavo, "hub", namespace)


def test_a_gated_model_and_its_token(octavo, cluster, smollm2_folder, namespace, record_property):
    """A gated model without its token is refused with the remedy; with the Secret it is served"""
    cluster.publish_model(GATED, smollm2_folder, token="hf_secret")
    model = {
        "uri": f"hf://{GATED}",
        "servedNames": ["gated"],
        "credentials": {"secretName": "hf-token", "key": "token"},
    }
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hf-token", "namespace": namespace}}
    octavo.apply({**secret, "stringData": {"token": "hf_wrong"}}, octavo.service("gated", namespace, model=model))
    octavo.until(
        lambda: octavo.condition("gated", namespace, "Stalled").get("reason") == "ModelAccessDenied",
        180,
        lambda: octavo.state_of(namespace),
    )
    record_property("reported", octavo.condition("gated", namespace, "Stalled")["message"][:120])
    octavo.apply({**secret, "stringData": {"token": "hf_secret"}})
    octavo.kubectl("-n", namespace, "delete", "pods", "--all")  # a variable of a running container does not change
    octavo.wait_ready("gated", namespace)
    assert "Paris" in answer(octavo, "gated", namespace)


def test_a_cache_is_filled_once(octavo, namespace, record_property):
    """A Job downloads the model onto the volume before the first replica; a restarted replica downloads nothing"""
    cache = {"size": "1Gi", "accessMode": "ReadWriteOnce"}
    octavo.apply(octavo.service("cached", namespace, cache=cache))
    record_property("ready after", f"{octavo.wait_ready('cached', namespace):.0f} s")
    assert octavo.get("pvc", "cached-cache", namespace)["status"]["phase"] == "Bound"
    assert octavo.condition("cached", namespace, "ModelCached")["reason"] == "Preloaded"
    # With no index to reach, only the volume has it.
    octavo.patch("cached", namespace, {"engine": {"env": [{"name": "PIP_INDEX_URL", "value": f"{HUB}/nothing-here"}]}})
    time.sleep(2)
    octavo.wait_ready("cached", namespace)
    assert "Paris" in answer(octavo, "cached", namespace)
    octavo.kubectl("-n", namespace, "delete", "llms", "cached")
    octavo.until(lambda: octavo.get("pvc", "cached-cache", namespace) is None, 60, "the cache is left behind")


def test_a_model_that_lies_on_a_claim(octavo, namespace):
    """A pvc:// model is served from a volume that another service has filled"""
    octavo.apply(octavo.service("filler", namespace, cache={"size": "1Gi", "retain": True}))
    octavo.wait_ready("filler", namespace)
    octavo.kubectl("-n", namespace, "delete", "llms", "filler")
    octavo.until(lambda: not octavo.replicas("filler", namespace), 60, "its replica stays")
    assert octavo.get("pvc", "filler-cache", namespace) is not None, "retain keeps it"
    code = "from pathlib import Path; print(*Path('/model').rglob('*.gguf'), sep='\\n')"
    path = _on_claim(octavo, namespace, "filler-cache", code).splitlines()[0].removeprefix("/model/")
    model = {"uri": f"pvc://filler-cache/{path}", "servedNames": ["claimed"]}
    octavo.apply(octavo.service("claimed", namespace, model=model))
    octavo.wait_ready("claimed", namespace)
    assert "Paris" in answer(octavo, "claimed", namespace)


def _on_claim(world, namespace, claim, code):
    """The output of Python code run on a claim's files."""
    volumes = [{"name": "model", "persistentVolumeClaim": {"claimName": claim}}]
    mounts = {"volumeMounts": [{"name": "model", "mountPath": "/model"}]}
    pod = world.client_pod("look", ["python", "-c", code], volumes=volumes, container=mounts)
    pod["metadata"]["namespace"] = namespace
    world.apply(pod)
    world.until(
        lambda: world.get("pod", "look", namespace)["status"]["phase"] == "Succeeded", 90, "it can't be looked at"
    )
    return world.kubectl("-n", namespace, "logs", "look")
