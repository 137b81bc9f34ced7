"""The targets, flags, paths, kinds, fields, values and endpoints that each program takes in the documentation."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
import yaml
from documents import PLACEHOLDER, PROGRAMS, ROOT, Command
from pydantic import TypeAdapter

from octavo.__main__ import VERBS
from octavo_engine.cli import compile as compile_verb
from octavo_engine.cli import run_batch
from octavo_engine.cli.arguments import parse_with_notes
from octavo_engine.server.app import ROUTES
from octavo_engine.server.intake.protocol import ChatBody, CompletionBody
from octavo_operator.api.conditions import CONDITION_TYPES
from octavo_operator.api.manifest import load_manifest
from octavo_operator.metrics_api.catalog import METRICS

TOML = (ROOT / "pyproject.toml").read_text()
VERSION = re.search(r'^version = "(.+)"$', TOML, re.MULTILINE)[1]
MAKEFILE = (ROOT / "Makefile").read_text()
CRD = yaml.safe_load((ROOT / "config/crd/octavo.dev_llmservices.yaml").read_text())
VALUES = json.loads((ROOT / "charts/octavo/values.schema.json").read_text())
BODIES = {"/v1/chat/completions": ChatBody, "/v1/completions": CompletionBody}
KINDS = {"configmap", "crd", "deployment", "service", "pod", "pods", "apiservice", "secret"}
KINDS |= {CRD["spec"]["names"]["plural"], *CRD["spec"]["names"]["shortNames"]}
# Flags by verb, with the number of words that each takes.
KUBECTL: Mapping[str, Mapping[str, int]] = {
    "apply": {"-f": 1, "-k": 1, "--server-side": 0},
    "annotate": {},
    "create": {"--from-literal": 1},
    "delete": {"-k": 1, "-A": 0, "--all": 0},
    "describe": {},
    "edit": {},
    "get": {"-A": 0, "-o": 1, "--raw": 1},
    "logs": {"-p": 0},
    "patch": {"--patch-file": 1},
    "port-forward": {},
    "rollout": {},
    "scale": {"--replicas": 1},
    "set": {},
    "wait": {"--for": 1, "--timeout": 1},
}
HELM: Mapping[str, Mapping[str, int]] = {
    "install": {"--create-namespace": 0, "--wait": 0, "--set": 1},
    "upgrade": {"--reset-then-reuse-values": 0, "--take-ownership": 0, "--set": 1},
    "rollback": {},
    "test": {},
    "uninstall": {},
}
CURL = {"--retry": 1, "--retry-connrefused": 0, "-H": 1, "-d": 1}


class Parsed(Exception):  # noqa: N818 - no error
    """A program's own parser took its arguments."""


def options_of(words: tuple[str, ...], known: Mapping[str, int]) -> tuple[list[str], dict[str, list[str]]]:
    """Positional words, and the values of flags. Fails on a flag that is not known."""
    rest, given, pending = [], {}, iter(words)
    for word in pending:
        name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if not word.startswith("-") or word == "-":
            rest.append(word)
            continue
        assert name in known, f"no flag {name}"
        given.setdefault(name, []).append(value if equals else next(pending) if known[name] else "")
    return rest, given


def check_path(path: str) -> None:
    if path != "-" and not PLACEHOLDER.match(path):
        assert (ROOT / path).exists(), f"there is no {path}"


def check_make(command: Command) -> None:
    for word in command.words[1:]:
        name, equals, _ = word.partition("=")
        if equals:
            assert re.search(rf"\$\({name}\)|^{name} \?=|\$\(if \$\({name}\)", MAKEFILE, re.MULTILINE), (
                f"no variable {name}"
            )
        else:
            assert f".PHONY: {word}\n" in MAKEFILE, f"no target {word}"


def check_serve(arguments: list[str]) -> None:
    parse_with_notes(["org/name" if word == "…" else word for word in arguments])


def check_octavo(command: Command) -> None:
    verb, *arguments = command.words[1:]
    assert verb in VERBS, f"no verb {verb}"
    for flag, path in pairwise(arguments):
        if flag == "-f":
            check_path(path)
    if verb == "serve" and arguments:
        check_serve(arguments)
    elif verb == "run-batch" and arguments:
        check_serve(run_batch.build_parser().parse_known_args(arguments)[1])
    elif verb == "launch" and arguments:
        assert arguments[0] == "render", f"octavo launch {arguments[0]}"
        check_serve(arguments[1:])
    elif arguments:
        check_module(VERBS[verb][0], arguments)


def check_module(name: str, arguments: list[str]) -> None:
    """`python -m NAME ARGUMENT …`: its own main, up to where the arguments are parsed."""
    assert importlib.util.find_spec(name), f"no module {name}"
    if not arguments:
        return
    if name == "octavo_engine":
        check_serve([word for word in arguments if word != "…"] or ["org/name"])
    elif name == compile_verb.__name__:
        _, rest = compile_verb._parser().parse_known_args(arguments)
        check_serve(rest)
    else:
        run_parser(name, arguments)


def run_parser(name: str, arguments: list[str]) -> None:
    """Run a module's main up to the end of `parse_args`. Raises SystemExit for arguments that are refused."""
    take = argparse.ArgumentParser.parse_args

    def parse_args(parser, args=None, namespace=None):
        take(parser, args, namespace)
        raise Parsed

    is_package = importlib.util.find_spec(name).submodule_search_locations is not None
    module = importlib.import_module(f"{name}.__main__" if is_package else name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        patch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(Parsed):
            module.main()


def check_python(command: Command) -> None:
    flag, name, *arguments = command.words[1:]
    assert flag == "-m"
    check_module(name, arguments)


def check_pip(command: Command) -> None:
    """Octavo is not published: its name would install a stranger's package."""
    verb, *names = command.words[1:]
    assert verb == "install"
    assert all(re.search(rf'"{name}[>=]', TOML) for name in names), f"{names} are no dependencies"


def field(path: str) -> dict[str, Any]:
    """The schema of a field of an LLMService, such as `.status.conditions[?(@.type=="Ready")].reason`."""
    node = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for name, bracket in re.findall(r"\.?([A-Za-z0-9]+)(\[[^\]]*\])?", re.sub(r'"\w+"', "", path)):
        assert name in node.get("properties", {}), f"no field {name} in {path}"
        node = node["properties"][name]
        node = node["items"] if bracket else node
    for name in re.findall(r'@\.type=="(\w+)"', path):
        assert name in CONDITION_TYPES, f"no condition {name}"
    return node


def check_kubectl(command: Command) -> None:
    words = command.words[1:]
    if words[0] == "-n":
        words = words[2:]
    verb = words[0]
    rest, given = options_of(words[1:], {**KUBECTL[verb], "-n": 1})
    for path in [*given.get("-f", []), *given.get("--patch-file", [])]:
        check_path(path)
    for folder in given.get("-k", []):
        assert (ROOT / folder / "kustomization.yaml").exists(), f"{folder} has no kustomization"
    if rest and verb != "rollout":
        assert set(rest[0].partition("/")[0].split(",")) <= KINDS, f"no kind {rest[0]}"
    for condition in given.get("--for", []):
        assert condition.removeprefix("condition=") in CONDITION_TYPES
    for form in given.get("-o", []):
        for column in form.removeprefix("custom-columns=").split(","):
            path = column.partition(":")[2]
            if not path.startswith(".metadata."):
                field(path)
    for path in given.get("--raw", []):
        assert path.rpartition("/")[2] in METRICS, f"no metric {path}"
    if command.stdin is not None:
        load_manifest(command.stdin + "\n")


def value_schema(path: str) -> dict[str, Any]:
    """The schema of a value of the chart."""
    node = VALUES
    for name in path.split("."):
        assert name in node.get("properties", {}) or isinstance(node.get("additionalProperties"), dict), (
            f"no value {path}"
        )
        node = node.get("properties", {}).get(name) or node["additionalProperties"]
        if "$ref" in node:
            node = VALUES["definitions"][node["$ref"].rpartition("/")[2]]
    return node


def check_set(text: str) -> None:
    """`--set A=B,C=D`."""
    for each in re.split(r",(?![^{]*\})", text):
        path, _, value = each.partition("=")
        schema = value_schema(path)
        given = value[1:-1].split(",") if value.startswith("{") else yaml.safe_load(value)
        types = {"string": str, "boolean": bool, "integer": int, "array": list, "object": dict}
        assert given in schema.get("enum", [given]), f"{path} is one of {schema['enum']}"
        assert isinstance(given, types[schema.get("type", "string")]), f"{path} is of type {schema['type']}"


def check_helm(command: Command) -> None:
    verb, *_ = command.words[1:]
    rest, given = options_of(command.words[2:], {**HELM[verb], "-n": 1})
    if verb in {"install", "upgrade"} and rest:
        check_path(f"{rest[1]}/Chart.yaml" if not PLACEHOLDER.match(rest[1]) else rest[1])
    for text in given.get("--set", []):
        check_set(text)


def check_curl(command: Command) -> None:
    (url,), given = options_of(command.words[1:], CURL)
    path = "/" + url.split("/", 3)[3]
    method = "POST" if "-d" in given else "GET"
    assert (method, path) in {(each, route) for each, route, _ in ROUTES}, f"no {method} {path}"
    for body in given.get("-d", []):
        TypeAdapter(BODIES[path]).validate_json(body)


def check_docker(command: Command) -> None:
    """Files of a build, and the engine's arguments after an image; docker's own flags are docker's."""
    words = list(command.words)
    if words[1] == "build":
        recipe = words[words.index("-f") + 1]
        check_path(recipe)
        for argument in (word for before, word in pairwise(words) if before == "--build-arg"):
            declared = re.findall(r"^ARG (\w+)", (ROOT / recipe).read_text(), re.MULTILINE)
            assert argument.partition("=")[0] in declared, f"no {argument}"
    elif words[1] == "run":
        image = next(i for i, word in enumerate(words) if word.startswith("octavo/"))
        check_serve(words[image + 1 :])


CHECKS = {
    "make": check_make,
    "octavo": check_octavo,
    "python": check_python,
    "pip": check_pip,
    "kubectl": check_kubectl,
    "helm": check_helm,
    "curl": check_curl,
    "docker": check_docker,
    "export": lambda _: None,
    "kill": lambda _: None,
}
assert set(CHECKS) == PROGRAMS


def check(command: Command) -> None:
    assert command.program in CHECKS, f"{command.where}: {command.program} is no program that these pages use"
    try:
        CHECKS[command.program](command)
    except (Exception, SystemExit) as error:  # a parser's own word on it
        pytest.fail(f"{command.where}: {' '.join(command.words)}: {error!r}", pytrace=False)
