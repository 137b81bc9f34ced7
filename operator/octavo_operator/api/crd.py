"""The CustomResourceDefinition, made from the types: a structural schema, CEL rules, columns and subresources.

Beyond the types it holds only what an API server alone can judge: names and changes. Everything else is stated
once, in the types and in `rules`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from octavo_operator.api.base import SERVICE, SHAPES, Strict
from octavo_operator.api.conditions import READY
from octavo_operator.api.descriptions import descriptions
from octavo_operator.api.rules import RULES, Rule
from octavo_operator.api.status import Status
from octavo_operator.api.v1alpha1 import GROUP, KIND, PLURAL, SHORT_NAME, VERSION, LLMService, Spec

Schema = dict[str, Any]

# Of JSON Schema, what a structural schema may hold as it is.
KEPT = (
    "type",
    "format",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "x-kubernetes-int-or-string",
    "x-kubernetes-validations",
)
# Lists whose items have a key: server-side apply then merges them by it, and refuses doubles.
LIST_KEYS = {("Status", "conditions"): "type", ("Engine", "env"): "name"}

UNSEEN = {"observedGeneration": -1}

HAS = re.compile(
    r"has\(((?:self|oldSelf)\.[\w.]+)\)"
)  # true of a null, which means the same as a field that is left out

NAME_RULES = (
    {
        "rule": "size(self.metadata.name) <= 53",
        "message": "metadata.name has more than 53 letters; the children's names add to it: shorten it",
    },
    {
        "rule": f"self.metadata.name.matches(r'{SERVICE}')",
        "message": f"metadata.name {SHAPES[SERVICE]}, because the Service has the same name",
    },
)

_FIXED = "can't be changed on a claim that exists: {}"
_OTHER = "remove spec.cache, apply, and set it again, or name another claim in existingClaim"
CHANGES: dict[str, tuple[dict[str, str], ...]] = {
    "Cache": (
        {
            "rule": "(has(self.accessMode) ? self.accessMode : '')"
            " == (has(oldSelf.accessMode) ? oldSelf.accessMode : '')",
            "message": f"accessMode {_FIXED.format(_OTHER)}",
            "fieldPath": ".accessMode",
        },
        {
            "rule": "(has(self.storageClassName) ? self.storageClassName : '')"
            " == (has(oldSelf.storageClassName) ? oldSelf.storageClassName : '')",
            "message": f"storageClassName {_FIXED.format(_OTHER)}",
            "fieldPath": ".storageClassName",
        },
        {
            "rule": "!has(self.size) || !has(oldSelf.size)"
            " || quantity(string(self.size)).compareTo(quantity(string(oldSelf.size))) >= 0",
            "message": "size can grow, not shrink: Kubernetes shrinks no claim",
            "fieldPath": ".size",
        },
    ),
}


def definition() -> Schema:
    """The whole object, ready to be written as YAML."""
    ready = f'.status.conditions[?(@.type=="{READY}")]'
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": [SHORT_NAME],
                "categories": ["octavo"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": [
                        _column("Model", ".status.model.displayName", "The model that is served."),
                        _column("Ready", f"{ready}.status", "True if the desired replicas are ready."),
                        _column("Replicas", ".status.readiness", "Ready and desired replicas."),
                        _column("Reason", f"{ready}.reason", "Why it is ready, or why not."),
                        _column(
                            "Fits",
                            '.status.conditions[?(@.type=="Fits")].status',
                            "True if the model fits what it was given.",
                            wide=True,
                        ),
                        _column("URL", ".status.url", "The URL for clients within the cluster.", wide=True),
                        _column("Message", f"{ready}.message", "The state, and what to do.", wide=True),
                        _column("Age", ".metadata.creationTimestamp", "Since when it exists.", kind="date"),
                    ],
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "schema": {"openAPIV3Schema": _root()},
                }
            ],
        },
    }


def _column(name: str, path: str, description: str, *, kind: str = "string", wide: bool = False) -> Schema:
    return {
        "name": name,
        "type": kind,
        "jsonPath": path,
        "description": description,
        "priority": int(wide),
    }


def _root() -> Schema:
    return {
        "type": "object",
        "description": _document(LLMService),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}."},
            "kind": {"type": "string", "description": f"{KIND}."},
            "metadata": {"type": "object"},
            "spec": _Types(Spec).schema("Desired state."),
            # Without it kstatus, and so Flux, would take an object that was never reconciled for a finished one.
            "status": _Types(Status).schema("State of the service; written by the operator alone.")
            | {"default": UNSEEN},
        },
        "x-kubernetes-validations": list(NAME_RULES),
    }


class _Types:
    """One type and all within it, found by the names that pydantic gives their schemas."""

    def __init__(self, root: type[BaseModel]) -> None:
        self.root = root
        self.definitions: Mapping[str, Schema] = root.model_json_schema(by_alias=True).get("$defs", {})
        self.models = {model.__name__: model for model in _models(root)}
        assert set(self.definitions) <= set(self.models), "two types of one name"

    def schema(self, description: str) -> Schema:
        return self._object(self.root, self.root.model_json_schema(by_alias=True), description)

    def _object(self, model: type[BaseModel], node: Schema, description: str) -> Schema:
        texts = {field.alias or name: descriptions(model)[name] for name, field in model.model_fields.items()}
        result: Schema = {"description": _both(description, _document(model)), "type": "object"}
        if node.get("required"):
            result["required"] = node["required"]
        result["properties"] = {
            name: self._field(model, name, inner, texts[name]) for name, inner in node["properties"].items()
        }
        rules = [twin.validation() for rule in _rules(model) for twin in rule.twins]
        rules += CHANGES.get(model.__name__, ())
        rules = [rule | {"rule": HAS.sub(r"(\g<0> && dyn(\1) != null)", rule["rule"])} for rule in rules]
        if rules:
            result["x-kubernetes-validations"] = rules
        return result

    def _field(self, model: type[BaseModel], name: str, node: Schema, description: str) -> Schema:
        default = node.get("default")
        # A default is written into every stored object for good: only plain values, and never of a whole part.
        plain = default not in (None, "") and not isinstance(default, dict | list)
        if plain and default is not False:
            description += f" Default: {str(default).lower() if isinstance(default, bool) else default}."
        result = self._value(node, description)
        if plain:
            result["default"] = default
        elif issubclass(model, Strict) and not model.model_fields[_name(model, name)].is_required():
            # Under server-side apply a null is kept, and refused where the schema does not allow it. A field with a
            # default gets that.
            result["nullable"] = True
        if key := LIST_KEYS.get((model.__name__, name)):
            result |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
        elif result.get("type") == "array":
            result["x-kubernetes-list-type"] = "atomic"
        return result

    def _value(self, node: Schema, description: str | None) -> Schema:
        described = {} if description is None else {"description": description}
        if "$ref" in node:
            name = node["$ref"].rpartition("/")[2]
            return self._object(self.models[name], self.definitions[name], description or "")
        if "anyOf" in node and not node.get("x-kubernetes-int-or-string"):
            # Or null, which `_field` allows.
            (inner,) = (branch for branch in node["anyOf"] if branch.get("type") != "null")
            return self._value(inner, description)
        result: Schema = described | {key: node[key] for key in KEPT if key in node}
        if "exclusiveMinimum" in node:
            result |= {"minimum": node["exclusiveMinimum"], "exclusiveMinimum": True}
        if node.get("x-kubernetes-int-or-string"):
            result["anyOf"] = node["anyOf"]
        if node.get("type") == "array":
            result["items"] = self._value(node["items"], None)
        if node.get("type") == "object":
            # A mapping with a pattern for its keys, which a structural schema can't hold: pydantic puts the values here.
            (values,) = node.get("patternProperties", {"": node.get("additionalProperties")}).values()
            if isinstance(values, dict):
                result["additionalProperties"] = self._value(values, None)
            else:
                result["x-kubernetes-preserve-unknown-fields"] = True
        return result


def _name(model: type[BaseModel], alias: str) -> str:
    """The field's name in Python."""
    return next(name for name, field in model.model_fields.items() if (field.alias or name) == alias)


def _rules(model: type[BaseModel]) -> tuple[Rule, ...]:
    return RULES.get(model, ()) if issubclass(model, Strict) else ()


def _models(root: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield root
    for field in root.model_fields.values():
        yield from _within(field.annotation)


def _within(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from _models(annotation)
    for argument in getattr(annotation, "__args__", ()):
        yield from _within(argument)


def _document(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _both(field: str, model: str) -> str:
    """The field's own sentence and its type's, where these differ."""
    if not field or model.startswith(field.rstrip(".")):
        return model
    return field if field.startswith(model.rstrip(".")) else f"{field} {model}"
