"""A real API server takes the definition, and refuses what is wrong with the field's path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from invalid_objects import BEYOND_THE_SCHEMA, INVALID
from octavo_testing.api_client import ApiError, until

from octavo_operator.api.crd import definition
from octavo_operator.api.engine import Engine
from octavo_operator.api.manifest import parse, read_manifest
from octavo_operator.api.model import Model
from octavo_operator.api.v1alpha1 import API_VERSION, KIND, Spec
from octavo_operator.errors import ManifestError

ROOT = Path(__file__).parents[2]
SAMPLES = sorted((ROOT / "config" / "samples").glob("*.yaml"))
CRD = ("apiextensions.k8s.io/v1", "CustomResourceDefinition", "llmservices.octavo.dev")
STRICT = {"fieldValidation": "Strict", "dryRun": "All"}


@pytest.fixture(scope="module")
def api(control_plane):
    control_plane.api.apply(definition())

    def established() -> bool:
        conditions = control_plane.api.get(*CRD).get("status", {}).get("conditions") or []
        return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)

    until(established, 20, "the definition is established")
    return control_plane.api


def service(spec: dict[str, Any], namespace: str, name: str = "svc") -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def refusal(error: ApiError) -> str:
    causes = error.body.get("details", {}).get("causes", [])
    return "\n".join([error.body.get("message", ""), *(f"{c.get('field')}: {c.get('message')}" for c in causes)])


def test_the_server_finds_nothing_wrong_with_the_definition(api):
    conditions = {c["type"]: c["status"] for c in api.get(*CRD)["status"]["conditions"]}
    assert conditions == {"NamesAccepted": "True", "Established": "True"}


@pytest.mark.parametrize("file", SAMPLES, ids=lambda file: file.stem)
def test_a_sample_is_taken(api, namespace, file):
    bodies = [body for body in yaml.safe_load_all(file.read_text("utf-8")) if body["kind"] == KIND]
    assert bodies
    for body in bodies:
        body["metadata"]["namespace"] = namespace
        taken = api.create(body, fieldValidation="Strict")
        assert parse(taken).spec == parse(body).spec, "what the server defaults means the same as what was left out"


def test_a_uri_alone_is_enough_and_nothing_is_added_to_it(api, namespace):
    """A default that stood in every object could never be changed again."""
    taken = api.create(service({"model": {"uri": "hf://org/name"}}, namespace), **STRICT)
    assert taken["spec"] == {"model": {"uri": "hf://org/name"}, "replicas": 1, "suspend": False}


def test_nulls_are_as_good_as_left_out(api, namespace):
    spec = {
        "model": {"uri": "hf://org/name", "revision": None, "credentials": None, "servedNames": None},
        "engine": {"maxModelLen": None, "image": None},
        "cache": None,
        "replicas": None,
        "rollout": {"drainTimeout": None},
    }
    taken = api.create(service(spec, namespace), **STRICT)
    assert parse(taken).spec == parse(service({"model": {"uri": "hf://org/name"}}, namespace)).spec


def test_nulls_of_unset_values_are_taken_under_server_side_apply(api, namespace):
    """Charts write such nulls: kubectl apply --server-side, helm 4 and Argo CD send them."""
    every = dict.fromkeys(_optional(Spec))
    spec = every | {
        "model": {"uri": "hf://org/name"} | dict.fromkeys(_optional(Model)),
        "engine": dict.fromkeys(_optional(Engine)),
        "accelerator": {"vendor": "cpu", "products": None, "resourceName": None},
        "resources": {"requests": None, "limits": None},
    }
    body = service(spec, namespace)
    taken = api.apply(body, "a-chart")
    plain = service({"model": {"uri": "hf://org/name"}, "accelerator": {"vendor": "cpu"}}, namespace)
    assert parse(taken).spec == parse(plain).spec
    taken = api.apply(
        body | {"spec": spec | {"cache": {"size": None, "existingClaim": "c", "retain": None}}}, "a-chart"
    )
    assert parse(taken).spec.cache.existing_claim == "c"


def test_the_scale_answers_where_replicas_are_left_out(api, namespace):
    """An autoscaler of one's own reads and writes it."""
    body = service({"model": {"uri": "hf://org/name"}}, namespace, "scaled")
    api.create(body)
    scale = api.request("GET", api.path(API_VERSION, KIND, namespace, body["metadata"]["name"]) + "/scale")
    assert scale["spec"]["replicas"] == 1


def _optional(model) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items() if not field.is_required()]


def test_quantities_may_be_numbers(api, namespace):
    spec = {"model": {"uri": "hf://org/name"}, "resources": {"requests": {"cpu": 4, "memory": "32Gi"}}}
    assert api.create(service(spec, namespace), **STRICT)["spec"]["resources"]["requests"]["cpu"] == 4


def test_the_pod_template_keeps_unknown_fields(api, namespace):
    template = {"spec": {"containers": [{"name": "engine", "inventedYesterday": {"a": [1]}}]}}
    spec = {"model": {"uri": "hf://org/name"}, "podTemplate": template}
    assert api.create(service(spec, namespace), **STRICT)["spec"]["podTemplate"] == template


def test_there_are_fifty_of_them():
    assert len(INVALID) >= 50


@pytest.mark.parametrize("what", INVALID)
def test_what_is_wrong_is_refused_by_the_server_with_its_field(api, namespace_for_refusals, what):
    spec, field = INVALID[what]
    with pytest.raises(ApiError) as caught:
        api.create(service(spec, namespace_for_refusals), **STRICT)
    assert caught.value.status in {400, 422}
    found = refusal(caught.value)
    assert field in found
    assert "internal error" not in found.lower()


@pytest.mark.parametrize("what", INVALID | BEYOND_THE_SCHEMA)
def test_what_is_wrong_is_reported_by_the_types_with_its_field(what):
    """The types report the same without an API server, also for an object that got past the schema."""
    spec, field = (INVALID | BEYOND_THE_SCHEMA)[what]
    with pytest.raises(ManifestError) as caught:
        parse(service(spec, "default"))
    assert any(problem.field.startswith(field.partition("[0].")[0]) for problem in caught.value.problems), caught.value


@pytest.mark.parametrize("what", BEYOND_THE_SCHEMA)
def test_the_schema_lets_pass_what_only_the_types_refuse(api, namespace_for_refusals, what):
    """Were it refused here, the table would be out of date."""
    api.create(service(BEYOND_THE_SCHEMA[what][0], namespace_for_refusals), **STRICT)


@pytest.fixture(scope="module")
def namespace_for_refusals(api):
    made = api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "refusals-"}})
    yield made["metadata"]["name"]
    api.delete("v1", "Namespace", made["metadata"]["name"])


@pytest.mark.parametrize("name", ["x" * 54, "1st", "a.b"])
def test_a_name_that_no_service_can_have_is_refused(api, namespace, name):
    with pytest.raises(ApiError, match=r"metadata\.name"):
        api.create(service({"model": {"uri": "hf://org/name"}}, namespace, name), **STRICT)


@pytest.mark.parametrize(
    ("before", "after", "field"),
    [
        ({"storageClassName": "fast"}, {"storageClassName": "slow"}, "storageClassName"),
        ({"accessMode": "ReadWriteOnce"}, {"accessMode": "ReadWriteMany"}, "accessMode"),
        ({}, {"accessMode": "ReadWriteMany"}, "accessMode"),
        ({"size": "2Gi"}, {"size": "1024Mi"}, "size"),
        ({"size": 1000}, {"size": "999"}, "size"),
    ],
)
def test_what_a_claim_can_not_change_is_refused(api, namespace, before, after, field):
    uri = {"model": {"uri": "hf://org/name"}}
    api.create(service(uri | {"cache": before}, namespace))
    with pytest.raises(ApiError, match=rf"spec\.cache\.{field}"):
        api.apply(service(uri | {"cache": after}, namespace), manager="before-first-apply")


def test_a_claim_may_grow(api, namespace):
    uri = {"model": {"uri": "hf://org/name"}}
    api.create(service(uri | {"cache": {"size": "2Gi"}}, namespace))
    api.apply(service(uri | {"cache": {"size": "3000Mi"}}, namespace))


def test_kubectl_scale_sets_the_replicas(api, namespace, control_plane):
    api.create(service({"model": {"uri": "hf://org/name"}}, namespace))
    control_plane.kubectl("scale", "llms/svc", "--replicas=3", "-n", namespace)
    assert api.get(API_VERSION, KIND, "svc", namespace)["spec"]["replicas"] == 3


def test_kubectl_scale_is_refused_where_the_autoscaler_decides(api, namespace, control_plane):
    """Accepted, it would change nothing, and the next reader would believe it had."""
    api.create(service({"model": {"uri": "hf://org/name"}, "autoscaling": {"maxReplicas": 2}}, namespace))
    found = control_plane.kubectl("scale", "llms/svc", "--replicas=3", "-n", namespace, check=False)
    assert "replicas is set beside autoscaling, which decides it: remove one of the two" in found
    assert api.get(API_VERSION, KIND, "svc", namespace)["spec"]["replicas"] == 1


def test_kubectl_explain_reads_like_documentation(api, control_plane):
    found = control_plane.kubectl("explain", "llms.spec.engine")
    assert "GPUs that each layer is split across. It must divide the model's attention" in found
    assert "enum: octavo, vllm" in found
    assert "<no description>" not in found


def test_kubectl_get_shows_the_status(api, namespace, control_plane):
    api.create(service({"model": {"uri": "hf://org/name"}, "replicas": 2}, namespace))
    now = "2026-01-01T00:00:00Z"
    ready = {"type": "Ready", "status": "True", "reason": "Serving", "message": "", "lastTransitionTime": now}
    status = {
        "observedGeneration": 1,
        "conditions": [ready],
        "replicas": 2,
        "readyReplicas": 2,
        "readiness": "2/2",
        "selector": "a=b",
        "url": "http://svc:8000",
        "model": {"uri": "hf://org/name", "displayName": "org/name"},
    }
    api.patch(API_VERSION, KIND, "svc", namespace, {"status": status}, subresource="status", fieldValidation="Strict")
    header, row = control_plane.kubectl("get", "llms", "-n", namespace).splitlines()
    assert header.split() == ["NAME", "MODEL", "READY", "REPLICAS", "REASON", "AGE"]
    assert row.split()[:5] == ["svc", "org/name", "True", "2/2", "Serving"]
    scale = api.request("GET", f"{api.path(API_VERSION, KIND, namespace, 'svc')}/scale")
    assert scale["status"] == {"replicas": 2, "selector": "a=b"}


def test_the_types_read_every_sample_as_the_server_does():
    for file in SAMPLES:
        assert read_manifest(file).services
