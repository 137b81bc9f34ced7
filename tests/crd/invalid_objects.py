"""Fifty specs that are wrong, each with the field that has to be named; and what the schema alone can't refuse."""

from __future__ import annotations

from typing import Any

HF = "hf://org/name"
CPU = {"vendor": "cpu"}


def _model(**fields: Any) -> dict[str, Any]:
    return {"model": {"uri": HF} | fields}


def _engine(**fields: Any) -> dict[str, Any]:
    return _model() | {"engine": fields}


def _with(**fields: Any) -> dict[str, Any]:
    return _model() | fields


# What is wrong, in a few words: (the spec, the field that is named by the API server).
INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "no model": ({"replicas": 1}, "spec.model"),
    "no uri": ({"model": {}}, "spec.model.uri"),
    "a uri without a scheme": ({"model": {"uri": "org/name"}}, "spec.model.uri"),
    "an unknown scheme": ({"model": {"uri": "ftp://host/name"}}, "spec.model.uri"),
    "a hub's uri without an organisation": ({"model": {"uri": "hf://name"}}, "spec.model.uri"),
    "a uri with a space": ({"model": {"uri": "s3://bucket/a b"}}, "spec.model.uri"),
    "a relative file": ({"model": {"uri": "file://models/x"}}, "spec.model.uri"),
    "an empty revision": (_model(revision=""), "spec.model.revision"),
    "a revision with a space": (_model(revision="a b"), "spec.model.revision"),
    "no served name": (_model(servedNames=[]), "spec.model.servedNames"),
    "an empty served name": (_model(servedNames=[""]), "spec.model.servedNames"),
    "a Secret's name in capitals": (_model(credentials={"secretName": "HF"}), "spec.model.credentials.secretName"),
    "a key with a slash": (_model(credentials={"secretName": "hf", "key": "a/b"}), "spec.model.credentials.key"),
    "a template without a key": (_model(chatTemplate={"configMapName": "a"}), "spec.model.chatTemplate.key"),
    "a template without a ConfigMap": (_model(chatTemplate={"key": "a"}), "spec.model.chatTemplate.configMapName"),
    "a template by two names": (
        _model(chatTemplate={"name": "phi-2", "configMapName": "a", "key": "b"}),
        "spec.model.chatTemplate.name",
    ),
    "a template from nowhere": (_model(chatTemplate={"name": None}), "spec.model.chatTemplate"),
    "an unknown template": (_model(chatTemplate={"name": "phi-3"}), "spec.model.chatTemplate.name"),
    "an unknown runtime": (_engine(runtime="llama.cpp"), "spec.engine.runtime"),
    "an unknown type": (_engine(dtype="int4"), "spec.engine.dtype"),
    "no GPU": (_engine(tensorParallelSize=0), "spec.engine.tensorParallelSize"),
    "too many GPUs": (_engine(tensorParallelSize=65), "spec.engine.tensorParallelSize"),
    "half a GPU": (_engine(tensorParallelSize=1.5), "spec.engine.tensorParallelSize"),
    "a number in quotes": (_engine(maxModelLen="4096"), "spec.engine.maxModelLen"),
    "a length of nothing": (_engine(maxModelLen=0), "spec.engine.maxModelLen"),
    "a length beyond counting": (_engine(maxModelLen=2**31), "spec.engine.maxModelLen"),
    "a batch smaller than its sequences": (
        _engine(maxNumSeqs=64, maxNumBatchedTokens=32),
        "spec.engine.maxNumBatchedTokens",
    ),
    "a page of three tokens": (_engine(blockSize=3), "spec.engine.blockSize"),
    "no share of memory": (_engine(gpuMemoryUtilization=0), "spec.engine.gpuMemoryUtilization"),
    "more than all memory": (_engine(gpuMemoryUtilization=1.1), "spec.engine.gpuMemoryUtilization"),
    "a swap space in GB": (_engine(swapSpace="4GB"), "spec.engine.swapSpace"),
    "a negative swap space": (_engine(swapSpace=-1), "spec.engine.swapSpace"),
    "an argument that is a field": (_engine(args=["--max-model-len", "1"]), "spec.engine.args[0]"),
    "such an argument in disguise": (
        _engine(args=["--seed", "1", "--no-enable_prefix_caching"]),
        "spec.engine.args[2]",
    ),
    "two arguments in one": (_engine(args=["--seed 1"]), "spec.engine.args[0]"),
    "a variable with a bad name": (_engine(env=[{"name": "1A", "value": "b"}]), "spec.engine.env[0].name"),
    "a variable with two values": (
        _engine(env=[{"name": "A", "value": "b", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}]),
        "spec.engine.env[0].valueFrom",
    ),
    "a variable from nowhere": (_engine(env=[{"name": "A", "valueFrom": {}}]), "spec.engine.env[0].valueFrom"),
    "an image with its digest in the name": (
        _engine(image={"repository": "octavo@sha256:1"}),
        "spec.engine.image.repository",
    ),
    "a short digest": (_engine(image={"digest": "sha256:abc"}), "spec.engine.image.digest"),
    "an unknown pull policy": (_engine(image={"pullPolicy": "Sometimes"}), "spec.engine.image.pullPolicy"),
    "an unknown vendor": (_with(accelerator={"vendor": "abacus"}), "spec.accelerator.vendor"),
    "products of a CPU": (_with(accelerator=CPU | {"products": ["NVIDIA-L4"]}), "spec.accelerator.products"),
    "a CPU split in two": (
        _with(accelerator=CPU, engine={"tensorParallelSize": 2}),
        "spec.engine.tensorParallelSize",
    ),
    "a request beyond its limit": (
        _with(resources={"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}),
        "spec.resources",
    ),
    "half a core without quotes": (_with(resources={"requests": {"cpu": 0.5}}), "spec.resources.requests.cpu"),
    "GPUs among the resources": (_with(resources={"limits": {"nvidia.com/gpu": 1}}), "spec.resources.limits"),
    "a cache of no size": (_with(cache={"size": "big"}), "spec.cache.size"),
    "a claim and a size": (_with(cache={"existingClaim": "a", "size": "1Gi"}), "spec.cache.size"),
    "an unknown access mode": (_with(cache={"accessMode": "RWX"}), "spec.cache.accessMode"),
    "fewer than no replicas": (_with(replicas=-1), "spec.replicas"),
    "replicas beside autoscaling": (_with(replicas=2, autoscaling={"maxReplicas": 3}), "spec.replicas"),
    "autoscaling without an end": (_with(autoscaling={}), "spec.autoscaling.maxReplicas"),
    "a minimum above the maximum": (
        _with(autoscaling={"minReplicas": 3, "maxReplicas": 2}),
        "spec.autoscaling.minReplicas",
    ),
    "a duration without a unit": (_with(rollout={"drainTimeout": "90"}), "spec.rollout.drainTimeout"),
    "a port beyond the last": (_with(service={"port": 65536}), "spec.service.port"),
    "a Service by name alone": (_with(service={"type": "ExternalName"}), "spec.service.type"),
    "a field that does not exist": (_engine(maxModelLenght=1), "spec.engine.maxModelLenght"),
}

# The schema lets these pass; a program that reads the object reports them, with the field.
BEYOND_THE_SCHEMA: dict[str, tuple[dict[str, Any], str]] = {
    "a resource without a name": (_with(resources={"requests": {"a b": 1}}), "spec.resources.requests.a b"),
    "an odd resource beyond its limit": (
        _with(resources={"requests": {"hugepages-2Mi": "4Mi"}, "limits": {"hugepages-2Mi": "2Mi"}}),
        "spec.resources.requests.hugepages-2Mi",
    ),
    "slices of GPUs among the resources": (
        _with(resources={"limits": {"example.com/gpu": 1}}),
        'spec.resources.limits["example.com/gpu"]',
    ),
    "more than Kubernetes can hold": (_with(sharedMemory="9999999Ei"), "spec.sharedMemory"),
}
