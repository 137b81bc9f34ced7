"""A file of manifests: the LLMServices in it, and the Secrets and ConfigMaps that they may refer to.

`read` is for an object from the API server, which may be newer than this program; everything else is for files, where a
field that does not exist is a slip.
"""

from __future__ import annotations

import base64
import binascii
import sys
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from octavo_operator.api.problems import dotted, problem_of
from octavo_operator.api.rules import findings
from octavo_operator.api.v1alpha1 import API_VERSION, GROUP, KIND, LLMService
from octavo_operator.api.yaml_source import Document, read_documents
from octavo_operator.errors import ManifestError, Problem


@dataclass(frozen=True, slots=True)
class Manifest:
    """The objects of a file. `secrets` and `config_maps` go by name, then by key; `others` are `Kind name`."""

    source: str
    services: tuple[LLMService, ...]
    secrets: Mapping[str, Mapping[str, bytes]]
    config_maps: Mapping[str, Mapping[str, str]]
    others: tuple[str, ...] = ()

    def service(self, name: str | None = None) -> LLMService:
        """The one that is meant. Raises ManifestError if that isn't clear."""
        names = [service.metadata.name for service in self.services]
        if name is None and len(self.services) == 1:
            return self.services[0]
        for service in self.services:
            if service.metadata.name == name:
                return service
        message = f"holds {len(names)} LLMServices: {', '.join(names)}"
        if name is not None:
            message = f"holds no LLMService named {name}, but {', '.join(names)}"
        raise ManifestError(self.source, (Problem("", message, "choose one with --name"),))


def load_manifest(source: str | Path) -> LLMService:
    """The only LLMService of a file (`-` is standard input), or of YAML text with a line break in it.

    Raises ManifestError with every problem.
    """
    return read_manifest(source).service()


def read_manifest(source: str | Path) -> Manifest:
    """All of a file. Raises ManifestError with every problem of every document."""
    text, name = _text_of(source)
    services: list[LLMService] = []
    secrets: dict[str, Mapping[str, bytes]] = {}
    config_maps: dict[str, Mapping[str, str]] = {}
    others: list[str] = []
    problems: list[Problem] = []
    for document in _objects(read_documents(text, name)):
        body = document.value
        if not isinstance(body, dict):
            problems.append(Problem("", "a manifest is a mapping with apiVersion and kind", None, document.line(())))
            continue
        kind, title = str(body.get("kind")), _title(body)
        try:
            if _is_ours(body):
                services.append(parse(body, document, name))
            elif body.get("apiVersion") == "v1" and kind == "Secret":
                secrets[_name(body)] = _secret_data(body, document)
            elif body.get("apiVersion") == "v1" and kind == "ConfigMap":
                config_maps[_name(body)] = {key: str(value) for key, value in (body.get("data") or {}).items()}
            else:
                others.append(title)
        except ManifestError as error:
            problems += error.problems
    if problems:
        raise ManifestError(name, tuple(problems))
    if not services:
        found = f"only {', '.join(others)}" if others else "nothing"
        message = f"holds no LLMService, {found}"
        raise ManifestError(name, (Problem("", message, f"it needs apiVersion: {API_VERSION} and kind: {KIND}"),))
    return Manifest(name, tuple(services), secrets, config_maps, tuple(others))


def parse(body: Mapping[str, Any], document: Document | None = None, source: str = "LLMService") -> LLMService:
    """An object to an LLMService. Raises ManifestError with every problem, lines included where `document` is."""
    lines = document or Document(body)
    problems = []
    service = None
    try:
        service = LLMService.model_validate(dict(body))
    except ValidationError as error:
        for details in error.errors(include_url=False):
            problems.append(problem_of(details, LLMService, lines.line(details["loc"])))  # noqa: PERF401
    for where, what, remedy in findings(LLMService, body):
        path = _path(where, body)
        problems.append(Problem(dotted(path), what, remedy, lines.line(path)))
    if service is None or problems:
        # A rule may concern a field that was refused already.
        unique = {(problem.line or 0, problem.field): problem for problem in reversed(problems)}
        raise ManifestError(source, tuple(unique[key] for key in sorted(unique)))
    return service


def read(body: Mapping[str, Any]) -> tuple[LLMService, tuple[str, ...]]:
    """An object from the API server, and the fields of its spec that this version does not have.

    The API server has validated it by a CRD that may be newer: what is unknown is passed over, not refused. Raises
    ManifestError with every other problem.
    """
    try:
        return parse(body), ()
    except ManifestError:
        known = deepcopy(dict(body))
    unknown: list[str] = []
    while True:
        try:
            LLMService.model_validate(known)
        except ValidationError as error:
            extra = [each["loc"] for each in error.errors(include_url=False) if each["type"] == "extra_forbidden"]
            removed = [path for path in extra if _remove(known, path)]
            if removed:
                unknown += [dotted(path) for path in removed if path[0] != "metadata"]
                continue
        return parse(known), tuple(sorted(unknown))


def _remove(value: Any, path: tuple[str | int, ...]) -> bool:
    """Removes a field; False where the path leads elsewhere."""
    for part in path[:-1]:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return False
    if not isinstance(value, dict) or path[-1] not in value:
        return False
    del value[path[-1]]
    return True


def _text_of(source: str | Path) -> tuple[str, str]:
    if isinstance(source, str) and "\n" in source:
        return source, "manifest"
    if str(source) == "-":
        return sys.stdin.read(), "standard input"
    try:
        return Path(source).read_text(encoding="utf-8"), str(source)
    except OSError as error:
        raise ManifestError(str(source), (Problem("", f"can't be read: {error.strerror}"),)) from error
    except UnicodeDecodeError as error:
        raise ManifestError(str(source), (Problem("", "is not UTF-8 text", "save it as UTF-8"),)) from error


def _objects(documents: list[Document]) -> list[Document]:
    """The documents, lists of kind List taken apart."""
    objects = []
    for document in documents:
        items = document.value.get("items") if isinstance(document.value, dict) else None
        if isinstance(items, list) and str(document.value.get("kind")).endswith("List"):
            objects += [document.within(("items", index)) for index in range(len(items))]
        else:
            objects.append(document)
    return objects


def _is_ours(body: Mapping[str, Any]) -> bool:
    """True if the object is meant to be an LLMService, even misspelt: then it is read as one, and the slip reported."""
    kind, version = str(body.get("kind", "")), str(body.get("apiVersion", ""))
    if version.startswith(f"{GROUP}/") or kind == KIND:
        return True
    meant = get_close_matches(kind.lower(), [KIND.lower(), "llms"], n=1, cutoff=0.8)
    spec = body.get("spec")
    return bool(meant) or (isinstance(spec, dict) and isinstance(spec.get("model"), dict) and "uri" in spec["model"])


def _name(body: Mapping[str, Any]) -> str:
    metadata = body.get("metadata")
    return str(metadata.get("name")) if isinstance(metadata, dict) else ""


def _title(body: Mapping[str, Any]) -> str:
    return f"{body.get('kind') or 'an object without a kind'} {_name(body)}".strip()


def _secret_data(body: Mapping[str, Any], document: Document) -> dict[str, bytes]:
    data = {}
    for key, value in (body.get("data") or {}).items():
        try:
            data[key] = base64.b64decode(str(value), validate=True)
        except (binascii.Error, ValueError) as error:
            where, line = f"Secret {_name(body)}: data.{key}", document.line(("data", key))
            raise ManifestError(
                "", (Problem(where, "is not base64", "encode it, or write it under stringData", line),)
            ) from error
    data.update({key: str(value).encode() for key, value in (body.get("stringData") or {}).items()})
    return data


def _path(where: str, body: Mapping[str, Any]) -> tuple[str | int, ...]:
    """A rule's dotted field as a path: keys of the body may hold dots themselves, so it is walked along."""
    path: list[str | int] = []
    value: Any = body
    rest = where
    while rest:
        if isinstance(value, list):
            head, _, rest = rest.partition(".")
            path.append(int(head))
            value = value[int(head)]
            continue
        keys = [k for k in (value if isinstance(value, Mapping) else ()) if rest == k or rest.startswith(f"{k}.")]
        head = max(keys, key=len) if keys else rest.partition(".")[0]
        path.append(head)
        value = value.get(head) if isinstance(value, Mapping) else None
        rest = rest[len(head) + 1 :]
    return tuple(path)
