"""Any manifest is planned or its problems are reported: nothing that a person writes is a traceback."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from octavo_testing.planner_cases import LLAMA_70B, MISTRAL_7B, SMALL, described
from octavo_testing.properties import accepting, tried

from octavo_operator.api.manifest import read_manifest
from octavo_operator.api.observed import Observed
from octavo_operator.errors import ManifestError
from octavo_operator.planner import plan
from octavo_operator.settings import Settings
from octavo_operator.verbs import printout

FULL = yaml.safe_load("""
apiVersion: octavo.dev/v1alpha1
kind: LLMService
metadata: {name: x, labels: {a: b}, annotations: {octavo.dev/ignore-fit: "false"}}
spec:
  model:
    uri: hf://a/b
    revision: x
    file: f
    servedNames: [a]
    credentials: {secretName: s, key: k}
    chatTemplate: {configMapName: a, key: b}
  engine:
    runtime: octavo
    image: {tag: "1", pullSecrets: [a]}
    tensorParallelSize: 1
    dtype: auto
    maxModelLen: 1000
    maxNumSeqs: 3
    maxNumBatchedTokens: 10
    gpuMemoryUtilization: 0.5
    swapSpace: 4Gi
    args: [--seed, "1"]
    env: [{name: a, value: b}, {name: c, valueFrom: {secretKeyRef: {name: a, key: b}}}]
  accelerator: {vendor: nvidia, products: [NVIDIA-L4], resourceName: nvidia.com/gpu}
  resources: {requests: {cpu: 1, memory: 1Gi}, limits: {memory: 2Gi}}
  sharedMemory: 1Gi
  cache: {size: 1Gi, accessMode: ReadWriteOnce}
  autoscaling: {minReplicas: 1, maxReplicas: 2, metrics: [{}], behavior: {}}
  rollout: {strategy: Auto, drainTimeout: 1m}
  auth: {apiKeys: {secretName: a, key: b}}
  service: {type: ClusterIP, port: 80}
  networkPolicy: {enabled: true, allowFrom: [{}]}
  podTemplate: {}
""")
JUNK: list[Any] = [
    None, True, 0, 1, 3, -1, 1.5, 10**30, float("nan"), float("inf"), "", "x", "cpu", "16Gi", "0", "1m", "1e999",
    "hf://", "\x00", "é", [], [None], {}, {"a": None}, {"x": {"y": [1]}},
]  # fmt: skip
MODELS = [None, described(SMALL), described(MISTRAL_7B), described(LLAMA_70B)]


def places(value: Any, path: tuple = ()) -> list[tuple]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return ([path] if path else []) + [place for key, inner in items for place in places(inner, (*path, key))]


@st.composite
def manifests(draw) -> str:
    body = copy.deepcopy(FULL)
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from(places(body)))
        around = body
        for key in path:
            around = around[key]
        match draw(st.sampled_from(["replace", "remove", "rename"])):
            case "remove":
                del around[last]
            case "rename" if isinstance(around, dict):
                around[f"{last}x"] = around.pop(last)
            case _:
                around[last] = copy.deepcopy(draw(st.sampled_from(JUNK)))
        if not body:
            break
    return yaml.safe_dump(body, allow_unicode=True) + "\n\n"


@pytest.mark.slow
@accepting(0.01)
@given(manifests(), st.sampled_from(MODELS), st.booleans(), st.sampled_from([None, 0, 9]))
@tried(200)
def test_a_damaged_manifest_is_planned_or_reported(text, model, serving, free):
    services, found = (), ()
    try:
        services = read_manifest(text).services
    except ManifestError as error:
        found = error.problems
    assert bool(services) != bool(found)
    for service in services:
        made = plan(service, Observed(model, "no one looked", free, serving), Settings())
        assert printout.text(made)
        assert printout.document(made)["name"] == service.metadata.name
    return bool(services)
