"""The API's documents for API machinery: discovery, and OpenAPI in versions 2 and 3. Pure."""

from __future__ import annotations

from typing import Any

from octavo_operator.api.v1alpha1 import GROUP as OWN_GROUP
from octavo_operator.api.v1alpha1 import PLURAL
from octavo_operator.metrics_api.catalog import METRICS

Document = dict[str, Any]

GROUP = "custom.metrics.k8s.io"
VERSIONS = ("v1beta2", "v1beta1")
SERVICES = f"{PLURAL}.{OWN_GROUP}"
RESOURCES = ("pods", SERVICES)
BASE = "io.k8s.metrics.pkg.apis.custom_metrics"
STRING: Document = {"type": "string"}


def group() -> Document:
    """/apis/GROUP"""
    versions = [{"groupVersion": f"{GROUP}/{version}", "version": version} for version in VERSIONS]
    return {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": GROUP,
        "versions": versions,
        "preferredVersion": versions[0],
    }


def groups() -> Document:
    """/apis"""
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group()]}


def resources(version: str) -> Document:
    """/apis/GROUP/VERSION: each metric is a subresource of the kind that it describes."""
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{GROUP}/{version}",
        "resources": [
            {
                "name": f"{resource}/{metric}",
                "singularName": "",
                "namespaced": True,
                "kind": "MetricValueList",
                "verbs": ["get"],
            }
            for resource in RESOURCES
            for metric in METRICS
        ],
    }


def openapi_v2() -> Document:
    """/openapi/v2: both versions."""
    definitions: Document = {}
    for version in VERSIONS:
        definitions |= _schemas(version, "#/definitions/")
    paths = {}
    for version in VERSIONS:
        answer = {"description": "OK", "schema": {"$ref": f"#/definitions/{BASE}.{version}.MetricValueList"}}
        parameters = [{**each, **STRING} for each in _parameters()]
        operation = {**_operation(version), "produces": ["application/json"], "parameters": parameters}
        paths[_path(version)] = {"get": {**operation, "responses": {"200": answer}}}
    return {"swagger": "2.0", "info": _info(), "paths": paths, "definitions": definitions}


def openapi_v3() -> Document:
    """/openapi/v3: where each version's document is."""
    return {"paths": {f"apis/{GROUP}/{v}": {"serverRelativeURL": f"/openapi/v3/apis/{GROUP}/{v}"} for v in VERSIONS}}


def openapi_v3_of(version: str) -> Document:
    """/openapi/v3/apis/GROUP/VERSION"""
    schema = {"$ref": f"#/components/schemas/{BASE}.{version}.MetricValueList"}
    answer = {"description": "OK", "content": {"application/json": {"schema": schema}}}
    parameters = [{**each, "schema": STRING} for each in _parameters()]
    operation = {**_operation(version), "parameters": parameters, "responses": {"200": answer}}
    return {
        "openapi": "3.0.0",
        "info": _info(),
        "paths": {_path(version): {"get": operation}},
        "components": {"schemas": _schemas(version, "#/components/schemas/")},
    }


def _info() -> Document:
    return {"title": "Octavo's custom metrics", "version": VERSIONS[0]}


def _path(version: str) -> str:
    return f"/apis/{GROUP}/{version}/namespaces/{{namespace}}/{{resource}}/{{name}}/{{metric}}"


def _operation(version: str) -> Document:
    return {
        "description": "the values of a metric of one object, or with the name * of all that labelSelector matches",
        "operationId": f"listCustomMetrics{version.capitalize()}NamespacedMetricValue",
        "tags": [f"customMetrics_{version}"],
    }


def _parameters() -> list[Document]:
    places = [{"name": name, "in": "path", "required": True} for name in ("namespace", "resource", "name", "metric")]
    return [*places, *({"name": name, "in": "query"} for name in ("labelSelector", "metricLabelSelector"))]


def _schemas(version: str, where: str) -> Document:
    selector = {"type": "object", "description": "the labels by which the series were chosen"}
    name: Document
    if version == "v1beta1":
        name = {"metricName": STRING, "selector": selector, "window": {"type": "integer", "format": "int64"}}
    else:
        metric = {"type": "object", "required": ["name"], "properties": {"name": STRING, "selector": selector}}
        name = {"metric": metric, "windowSeconds": {"type": "integer", "format": "int64"}}
    typed = {"apiVersion": STRING, "kind": STRING}
    fields = ("kind", "namespace", "name", "apiVersion")
    described = {"type": "object", "properties": dict.fromkeys(fields, STRING)}
    value = {
        "type": "object",
        "description": "a metric of an object at a time",
        "required": ["describedObject", "timestamp", "value"],
        "properties": {
            **typed,
            "describedObject": described,
            **name,
            "timestamp": {"type": "string", "format": "date-time"},
            "value": {"type": "string", "description": "a quantity"},
        },
    }
    items = {"type": "array", "items": {"$ref": f"{where}{BASE}.{version}.MetricValue"}}
    values = {
        "type": "object",
        "description": "a metric of each of the described objects",
        "required": ["items"],
        "properties": {**typed, "metadata": {"type": "object"}, "items": items},
    }
    kinds = {"MetricValue": value, "MetricValueList": values}
    return {
        f"{BASE}.{version}.{kind}": {
            **schema,
            "x-kubernetes-group-version-kind": [{"group": GROUP, "version": version, "kind": kind}],
        }
        for kind, schema in kinds.items()
    }
