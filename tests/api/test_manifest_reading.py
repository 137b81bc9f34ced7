"""The objects of a file of manifests are found, whatever else stands beside them."""

import io

import pytest

from octavo_operator.api.base import Strict
from octavo_operator.api.descriptions import descriptions
from octavo_operator.api.manifest import load_manifest, read_manifest
from octavo_operator.api.quantity import Quantity
from octavo_operator.api.rules import RULES
from octavo_operator.api.v1alpha1 import LLMService
from octavo_operator.errors import ManifestError

ONE = "apiVersion: octavo.dev/v1alpha1\nkind: LLMService\nmetadata: {name: %s}\nspec: {model: {uri: hf://a/b}}\n"
SECRET = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: aGk=}\nstringData: {b: plain}\n"
CONFIG_MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {t: '{{ x }}'}\n"
DEPLOYMENT = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n"


def test_the_models_address_alone_is_enough():
    service = load_manifest(ONE % "a")
    assert service.metadata.namespace == "default"
    assert service.spec.engine.gpu_memory_utilization == 0.9
    assert service.spec.replicas == 1


def test_documents_of_other_kinds_are_kept_or_named():
    manifest = read_manifest("---\n".join([ONE % "a", SECRET, CONFIG_MAP, DEPLOYMENT]))
    assert [s.metadata.name for s in manifest.services] == ["a"]
    assert manifest.secrets == {"s": {"a": b"hi", "b": b"plain"}}
    assert manifest.config_maps == {"c": {"t": "{{ x }}"}}
    assert manifest.others == ("Deployment web",)


def test_of_several_services_one_is_chosen_by_name():
    manifest = read_manifest("---\n".join([ONE % "a", ONE % "b"]))
    assert manifest.service("b").metadata.name == "b"
    with pytest.raises(ManifestError, match="holds 2 LLMServices: a, b; choose one with --name"):
        manifest.service()
    with pytest.raises(ManifestError, match="holds no LLMService named c"):
        manifest.service("c")


def test_a_list_is_taken_apart_and_keeps_its_lines():
    items = (ONE % "a").replace("\n", "\n  ").rstrip()
    assert load_manifest(f"apiVersion: v1\nkind: List\nitems:\n- {items}\n").metadata.name == "a"
    wrong = items.replace("hf://a/b", "a/b")
    with pytest.raises(ManifestError, match=r"line 7: spec.model.uri"):
        load_manifest(f"apiVersion: v1\nkind: List\nitems:\n- {wrong}\n")


def test_a_dash_reads_standard_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(ONE % "piped"))
    assert load_manifest("-").metadata.name == "piped"


def test_an_object_as_the_api_server_returns_it_is_read():
    text = (ONE % "a").replace(
        "{name: a}",
        "{name: a, namespace: n, uid: u, resourceVersion: '1', generation: 2, creationTimestamp: 2026-01-01T00:00:00Z,"
        " managedFields: [{manager: kubectl}], labels: {x: y}}",
    )
    service = load_manifest(text + "status: {conditions: []}\n")
    assert service.metadata.creation_timestamp == "2026-01-01T00:00:00Z"
    assert service.status == {"conditions": []}


def test_what_belongs_to_others_is_kept_verbatim():
    spec = (
        "spec:\n  model: {uri: hf://a/b}\n  podTemplate: {spec: {anything: [1, {at: all}]}}\n"
        "  autoscaling: {maxReplicas: 2, behavior: {scaleUp: {x: 1}}, metrics: [{type: Pods}]}\n"
    )
    service = load_manifest((ONE % "a").rpartition("spec:")[0] + spec)
    assert service.spec.pod_template == {"spec": {"anything": [1, {"at": "all"}]}}
    assert service.spec.autoscaling.behavior == {"scaleUp": {"x": 1}}
    assert service.spec.autoscaling.metrics == [{"type": "Pods"}]


def test_yaml_anchors_and_merges_are_understood():
    text = (ONE % "a").rpartition("spec:")[0] + (
        "spec:\n  model: {uri: hf://a/b}\n  resources:\n    requests: &r {memory: 2Gi}\n    limits: {<<: *r, cpu: 2}\n"
    )
    assert load_manifest(text).spec.resources.limits == {"memory": Quantity("2Gi"), "cpu": Quantity("2")}


def test_a_service_written_out_is_read_back_the_same():
    service = load_manifest(ONE % "a")
    assert LLMService.model_validate(service.model_dump(by_alias=True)) == service


def all_types(model: type[Strict]) -> set[type[Strict]]:
    found = {model}
    for field in model.model_fields.values():
        stack = [field.annotation]
        while stack:
            annotation = stack.pop()
            if isinstance(annotation, type) and issubclass(annotation, Strict):
                found |= all_types(annotation)
            stack += getattr(annotation, "__args__", ())
    return found


@pytest.mark.parametrize("model", sorted(all_types(LLMService), key=lambda t: t.__name__))
def test_every_field_of_every_type_is_described(model):
    written = descriptions(model)
    assert set(written) == set(model.model_fields)
    assert all(text.strip().endswith(".") for text in written.values())
    assert model.__doc__


def test_every_type_with_rules_is_part_of_the_api():
    assert set(RULES) <= all_types(LLMService)


def test_nulls_are_as_good_as_left_out():
    """Charts write nulls for unset values, and the API server takes them too."""
    text = """
apiVersion: octavo.dev/v1alpha1
kind: LLMService
metadata: {name: nulls}
spec:
  model:
    uri: hf://org/model
    revision:
    credentials:
  engine:
    image:
    maxModelLen:
    blockSize:
    args:
    env:
  accelerator:
    vendor: cpu
    products:
  resources:
    limits:
  cache:
  replicas:
  autoscaling:
  podTemplate:
"""
    plain = """
apiVersion: octavo.dev/v1alpha1
kind: LLMService
metadata: {name: nulls}
spec: {model: {uri: hf://org/model}, accelerator: {vendor: cpu}}
"""
    assert load_manifest(text).spec == load_manifest(plain).spec


def test_a_null_within_the_pod_template_stays():
    """A null there removes a field that would be there, as in a strategic merge."""
    text = (ONE % "a").replace("}}", "}, podTemplate: {spec: {securityContext: null}}}")
    assert load_manifest(text).spec.pod_template == {"spec": {"securityContext": None}}
