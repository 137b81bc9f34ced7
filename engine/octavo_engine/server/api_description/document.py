"""OpenAPI 3.1 of the routes that a server has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from aiohttp.typedefs import Handler
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from octavo_engine.server.answer.responses import Error
from octavo_engine.server.api_description.operations import OPERATIONS, Operation
from octavo_engine.server.auth import OPEN_PATHS
from octavo_engine.server.own_version import own_version

VERSION = "3.1.0"
SCHEMAS = "#/components/schemas/"
GIVEN = "Given"  # before the name of a part of a request, where an answer has a type of that name
_PARAMETER = re.compile(r"{(\w+)(?::[^{}]*)?}")
Route = tuple[str, str, Handler]


class Description:
    """The document of one server as JSON, made when it is first asked for."""

    def __init__(self, routes: Sequence[Route], *, root_path: str, needs_key: bool) -> None:
        self._routes = routes
        self._root_path = root_path
        self._needs_key = needs_key
        self._data: bytes | None = None

    def data(self) -> bytes:
        """The document; for a thread, the first time."""
        if self._data is None:
            document = describe(
                self._routes, version=own_version(), root_path=self._root_path, needs_key=self._needs_key
            )
            self._data = msgspec.json.encode(document)
        return self._data


def describe(routes: Sequence[Route], *, version: str, root_path: str, needs_key: bool) -> dict[str, Any]:
    """The document; `routes` are method, path and handler of each."""
    schemas = Schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for method, path, handler in routes:
        item = paths.setdefault(_PARAMETER.sub(r"{\1}", path), {})
        item[method.lower()] = _operation(method, path, handler, schemas, needs_key=needs_key)
    document: dict[str, Any] = {
        "openapi": VERSION,
        "info": {"title": "Octavo", "version": version, "description": "OpenAI's API, with vLLM's further fields."},
        "servers": [{"url": root_path or "/"}],
        "paths": paths,
        "components": {"schemas": schemas.components},
    }
    if needs_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return document


def _operation(method: str, path: str, handler: Handler, schemas: Schemas, *, needs_key: bool) -> dict[str, Any]:
    known = OPERATIONS.get(handler, Operation())
    text = " ".join((handler.__doc__ or "").split())
    found: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{method.lower()}{path}").strip("_"),
        "summary": text.partition(". ")[0].partition(":")[0].rstrip("."),
        "description": text,
        "tags": [_tag(path)],
        "responses": {"200": _answer(known, schemas), "default": _json("an error", schemas.of(Error))},
    }
    in_path = [_parameter(name, "path", {"type": "string"}) for name in _PARAMETER.findall(path)]
    in_query = [_parameter(name, "query", schema) for name, schema in (known.query or {}).items()]
    if in_path or in_query:
        found["parameters"] = in_path + in_query
    if known.form is not None:
        found["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": known.form}}}
    if known.body is not None:
        found["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schemas.of(known.body)}},
        }
    if needs_key and path not in OPEN_PATHS:
        found["security"] = [{"key": []}]
    return found


def _answer(known: Operation, schemas: Schemas) -> dict[str, Any]:
    if known.answer is None:
        return {"description": "done"}
    content = {known.media: {"schema": schemas.of(known.answer)}}
    if known.streams:
        content["text/event-stream"] = {
            "schema": {"type": "string", "description": "events, where the body has stream"}
        }
    return {"description": "the answer", "content": content}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _parameter(name: str, where: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": where, "required": where == "path", "schema": schema}


def _tag(path: str) -> str:
    parts = path.strip("/").split("/")
    return "server" if len(parts) == 1 else "/".join(parts[:2])


class Schemas:
    """The types of all bodies and answers as JSON schemas: pydantic's of what clients write, msgspec's of the rest."""

    def __init__(self, routes: Iterable[Route]) -> None:
        known = [OPERATIONS.get(handler, Operation()) for _, _, handler in routes]
        types = {Error, *(kind for operation in known for kind in _types(operation))}
        models = sorted((kind for kind in types if issubclass(kind, BaseModel)), key=lambda kind: kind.__name__)
        structs = sorted((kind for kind in types if not issubclass(kind, BaseModel)), key=lambda kind: kind.__name__)
        refs, given = models_json_schema(
            [(model, "validation") for model in models], ref_template=SCHEMAS + GIVEN + "{model}"
        )
        of_structs, answers = msgspec.json.schema_components(structs, ref_template=SCHEMAS + "{name}")
        definitions = {GIVEN + name: schema for name, schema in given.get("$defs", {}).items()}
        short = {name: name.removeprefix(GIVEN) for name in definitions if name.removeprefix(GIVEN) not in answers}
        self.components = _renamed(definitions, short) | answers
        self._refs = dict(zip(structs, of_structs, strict=True))
        self._refs |= {model: _renamed(refs[model, "validation"], short) for model in models}

    def of(self, kind: Any) -> dict[str, Any]:
        """The schema of a type, of a list of one, of one of several, or a schema itself."""
        if isinstance(kind, Mapping):
            return dict(kind)
        if isinstance(kind, tuple):
            return {"anyOf": [self.of(each) for each in kind]}
        if kind not in self._refs:
            return {"type": "array", "items": self.of(kind.__args__[0])}
        return self._refs[kind]


def _types(operation: Operation) -> Iterable[type]:
    for kind in (*(operation.body if isinstance(operation.body, tuple) else (operation.body,)), operation.answer):
        if kind is not None and not isinstance(kind, Mapping):
            yield getattr(kind, "__args__", (kind,))[0]


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """JSON with components and references to them under other names."""
    if isinstance(value, dict):
        return {names.get(key, key): _renamed(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [_renamed(each, names) for each in value]
    if isinstance(value, str) and value.startswith(SCHEMAS):
        name = value.removeprefix(SCHEMAS)
        return SCHEMAS + names.get(name, name)
    return value
