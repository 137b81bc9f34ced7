"""`octavo render` prints what would be applied, and a real API server takes it."""

from __future__ import annotations

import json

import pytest
import yaml
from octavo_testing.api_client import ApiError
from octavo_testing.children_cases import CASES, SAMPLES, planned, rendered, rendered_sample
from octavo_testing.planner_cases import SMALL, service

from octavo_operator.children import render
from octavo_operator.verbs.render_verb import main

FILES = sorted(SAMPLES.glob("*.yaml"))
FIELD_MANAGER = "octavo"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The verb, without any model of this machine's caches finding its way into a plan."""

    def run(*arguments: str) -> int:
        with monkeypatch.context() as patched:
            patched.setenv("OCTAVO_CACHE", str(tmp_path / "octavo"))
            patched.setenv("HF_HOME", str(tmp_path / "hub"))
            patched.delenv("HF_HUB_CACHE", raising=False)
            return main([*arguments, "--offline"])

    return run


def test_the_objects_are_yaml_documents_in_the_order_of_application(run, capsys):
    assert run("-f", str(SAMPLES / "chat.yaml")) == 0
    documents = list(yaml.safe_load_all(capsys.readouterr().out))
    assert [each["kind"] for each in documents[:2]] == ["PersistentVolumeClaim", "Job"]
    assert "Deployment" in {each["kind"] for each in documents}


def test_json_is_one_list_for_kubectl(run, capsys):
    assert run("-f", str(SAMPLES / "two-models.yaml"), "-o", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "List"
    assert len([each for each in found["items"] if each["kind"] == "Deployment"]) == 2


def test_a_namespace_replaces_the_manifests(run, capsys):
    assert run("-f", str(SAMPLES / "mistral.yaml"), "--namespace", "mine") == 0
    documents = list(yaml.safe_load_all(capsys.readouterr().out))
    assert {each["metadata"]["namespace"] for each in documents} == {"mine"}


def test_a_refusal_is_printed_with_its_remedy_and_status_one(tmp_path, run, capsys):
    text = (SAMPLES / "phi-2.yaml").read_text().replace("maxModelLen: 2048", "runtime: tgi")
    (tmp_path / "m.yaml").write_text(text)
    assert run("-f", str(tmp_path / "m.yaml")) == 1
    printed = capsys.readouterr()
    assert "vllm-server: RuntimeNotSupported" in printed.err
    assert "set engine.runtime" in printed.err
    assert not printed.out.strip()


def test_a_wrong_manifest_is_reported_with_status_two(tmp_path, run, capsys):
    (tmp_path / "m.yaml").write_text("kind: LLMService\n")
    assert run("-f", str(tmp_path / "m.yaml")) == 2
    assert "octavo render: " in capsys.readouterr().err


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_kubectl_takes_what_is_printed(control_plane, namespace, run, capsys, file):
    """In a namespace that enforces Pod Security `restricted`."""
    assert run("-f", str(file), "--namespace", namespace) == 0
    text = capsys.readouterr().out
    printed = control_plane.kubectl("apply", "--dry-run=server", "-f", "-", stdin=text)
    assert "would violate PodSecurity" not in printed
    assert printed.count("created (server dry run)") == len(list(yaml.safe_load_all(text)))


FULL = {
    "model": {
        "uri": "hf://o/n",
        "chatTemplate": {"configMapName": "t", "key": "x"},
        "credentials": {"secretName": "s"},
    },
    "engine": {"image": {"pullPolicy": "Always", "pullSecrets": ["p"]}, "env": [{"name": "A", "value": "b"}]},
    "accelerator": {"products": ["NVIDIA-L4", "NVIDIA-L40S"]},
    "cache": {"accessMode": "ReadWriteOnce", "size": "1Gi"},
    "autoscaling": {
        "minReplicas": 2,
        "maxReplicas": 3,
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}},
        "metrics": [
            {
                "type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 9}},
            }
        ],
    },
    "auth": {"apiKeys": {"secretName": "k"}},
    "service": {"type": "LoadBalancer", "port": 80},
    "networkPolicy": {"enabled": True, "allowFrom": [{"namespaceSelector": {"matchLabels": {"a": "b"}}}]},
    "podTemplate": {
        "metadata": {"annotations": {"a": "b"}},
        "spec": {"priorityClassName": "", "containers": [{"name": "engine", "workingDir": "/tmp"}]},
    },
}


@pytest.mark.parametrize("case", [*CASES, "full", "cpu", "suspended", "pvc", "vllm"])
def test_every_child_is_taken_by_server_side_apply(control_plane, namespace, case):
    """With strict validation: no field is unknown, doubled or left out, and no pod would be refused."""
    others = {
        "full": FULL,
        "cpu": {"accelerator": {"vendor": "cpu"}, "cache": {}},
        "suspended": FULL | {"suspend": True},
        "pvc": {"model": {"uri": "pvc://models/x"}},
        "vllm": {"engine": {"runtime": "vllm"}, "cache": {"accessMode": "ReadWriteMany"}},
    }
    children = rendered_sample(case) if case in CASES else rendered(**others[case])
    for child in children:
        if child["kind"] == "ServiceMonitor":  # this API server does not know them
            continue
        child["metadata"]["namespace"] = namespace
        try:
            control_plane.api.apply(child, FIELD_MANAGER, dryRun="All", fieldValidation="Strict")
        except ApiError as error:
            pytest.fail(f"{child['kind']}: {error}")
        if child["kind"] in {"Deployment", "Job"}:
            pod = child["spec"]["template"] | {"apiVersion": "v1", "kind": "Pod"}
            pod["metadata"] = pod["metadata"] | {"name": "p", "namespace": namespace}
            pod["spec"] = pod["spec"] | {"restartPolicy": "Never"}
            control_plane.api.create(pod, dryRun="All", fieldValidation="Strict")


def test_applying_twice_writes_once(control_plane, namespace):
    """What the API server fills in or writes in another way is not fought over: the second apply changes nothing."""
    of = service(**FULL)
    of = of.model_copy(update={"metadata": of.metadata.model_copy(update={"namespace": namespace})})
    for child in render(planned(of, SMALL, service_monitors=False)):
        first = control_plane.api.apply(child, FIELD_MANAGER)
        second = control_plane.api.apply(child, FIELD_MANAGER)
        if child["kind"] in {"Service", "NetworkPolicy"}:  # no controller writes to these meanwhile
            assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"], child["kind"]
        assert second["spec"] == first["spec"], child["kind"]
        assert second["metadata"].get("generation") == first["metadata"].get("generation"), child["kind"]
