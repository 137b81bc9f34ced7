"""The CustomResourceDefinition says what the types say, and every field of it means something to a reader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from octavo_operator.api.crd import definition
from octavo_operator.api.status import Status
from octavo_operator.api.v1alpha1 import LLMService, Spec

ROOT = Path(__file__).parents[2]
FOLDERS = ("crds", "config/crd", "charts/octavo/files")
VERSION = definition()["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]
LISTS = {"maxItems", "maxProperties"}


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema within, with its dotted path; items and values of maps as `[]`."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}".lstrip("."))
    for inner in (schema.get("items"), schema.get("additionalProperties")):
        if isinstance(inner, dict):
            yield from nodes(inner, f"{path}[]")


def fields(model: type[BaseModel], path: str) -> Iterator[str]:
    """Every field of a type and of the types within it, as `nodes` spells them."""
    for name, field in model.model_fields.items():
        where = f"{path}.{field.alias or name}"
        yield where
        yield from within(field.annotation, where)


def within(annotation: Any, path: str) -> Iterator[str]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from fields(annotation, path)
    for argument in getattr(annotation, "__args__", ()):
        yield from within(argument, f"{path}[]" if getattr(annotation, "__origin__", None) is list else path)


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_committed_file_is_what_the_types_say(folder):
    file = ROOT / folder / "octavo.dev_llmservices.yaml"
    assert yaml.safe_load(file.read_text("utf-8")) == definition(), "run make manifests"


@pytest.mark.parametrize(("model", "part"), [(Spec, "spec"), (Status, "status")])
def test_the_definitions_fields_are_the_types(model, part):
    found = {path for path, _ in nodes(SCHEMA["properties"][part], part) if path != part and not path.endswith("[]")}
    assert found == set(fields(model, part))


def test_the_root_has_the_types_fields():
    assert set(SCHEMA["properties"]) == {field.alias or name for name, field in LLMService.model_fields.items()}


def test_every_field_is_described():
    nameless = [
        path
        for path, node in nodes(SCHEMA)
        if not path.endswith("[]") and path != "metadata" and not node.get("description", "").endswith(".")
    ]
    assert nameless == []


def test_the_schema_is_structural():
    """No reference, no branch but that of a number or a string, and a type for everything else."""
    for path, node in nodes(SCHEMA):
        assert not node.keys() & {"$ref", "$defs", "allOf", "oneOf", "not", "title", "const"}, path
        if node.get("x-kubernetes-int-or-string"):
            assert node["anyOf"] == [{"type": "integer"}, {"type": "string"}], path
            assert "type" not in node, path
        else:
            assert "anyOf" not in node, path
            assert node["type"], path


def test_what_the_api_server_must_not_default_is_not_defaulted():
    """A whole part that no one requested would come back with each apply. Replicas are defaulted for /scale to answer."""
    defaults = {path for path, node in nodes(SCHEMA) if "default" in node}
    assert not defaults & {"spec.engine", "spec.autoscaling", "spec.cache", "spec.accelerator"}
    whole = {path: node["default"] for path, node in nodes(SCHEMA) if isinstance(node.get("default"), dict | list)}
    assert whole == {
        "status": {"observedGeneration": -1}
    }  # as kstatus needs it; never stored, for status is a subresource
    assert not [path for path in defaults if path.startswith("status.")]


def test_lists_that_rules_look_into_are_bounded():
    """What a rule costs is reckoned with the longest list that the schema allows."""
    unbounded = [
        path
        for path, node in nodes(SCHEMA["properties"]["spec"], "spec")
        if (node.get("type") == "array" or "additionalProperties" in node) and not node.keys() & LISTS
    ]
    assert unbounded == []


def test_others_schemas_are_kept_as_they_are():
    kept = {path for path, node in nodes(SCHEMA) if node.get("x-kubernetes-preserve-unknown-fields")}
    assert kept == {
        "spec.podTemplate",
        "spec.autoscaling.behavior",
        "spec.autoscaling.metrics[]",
        "spec.networkPolicy.allowFrom[]",
        "spec.engine.env[].valueFrom.fieldRef",
        "spec.engine.env[].valueFrom.resourceFieldRef",
    }


def test_every_rule_says_what_is_wrong():
    for path, node in nodes(SCHEMA):
        for rule in node.get("x-kubernetes-validations", []):
            assert rule["message"], path
            assert "\n" not in rule["message"], path


def test_the_columns_are_those_that_a_person_looks_for():
    columns = [(column["name"], column["priority"]) for column in VERSION["additionalPrinterColumns"]]
    assert [name for name, priority in columns if priority == 0] == ["Model", "Ready", "Replicas", "Reason", "Age"]
