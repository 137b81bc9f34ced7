"""YAML text to plain values, with the line on which each one stands.

Stricter than YAML where Kubernetes is: a duplicate key is refused, keys are strings, dates stay text.
Independent of LLMServices.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from octavo_operator.errors import ManifestError, Problem

Path = tuple[str | int, ...]

MAX_NODES = 100_000  # aliases expand: a small file must not become a large value


@dataclass(slots=True)
class Document:
    """One document: its value and, by path, the line (from 1) of each key or list item."""

    value: Any
    lines: dict[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int | None:
        """Line of the path, or of the nearest thing around it that stands in the file."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None

    def within(self, path: Path) -> Document:
        """The value at `path` as a document of its own."""
        value = self.value
        for step in path:
            value = value[step]
        return Document(value, {p[len(path) :]: n for p, n in self.lines.items() if p[: len(path)] == path})


def read_documents(text: str, source: str) -> list[Document]:
    """All documents that are not empty. Raises ManifestError with every duplicate key, or the parser's error."""
    loader = yaml.SafeLoader(text)
    documents, problems = [], []
    try:
        while loader.check_node():
            reader = _Reader(loader)
            node = loader.get_node()
            value = None if node is None else reader.read(node, ())
            problems += reader.problems
            if value is not None:
                documents.append(Document(value, reader.lines))
    except yaml.MarkedYAMLError as error:
        raise ManifestError(source, (_syntax_problem(error),)) from error
    except RecursionError as error:
        raise ManifestError(source, (Problem("", "is nested too deeply"),)) from error
    except (yaml.YAMLError, ValueError) as error:
        raise ManifestError(source, (Problem("", f"is not YAML: {error}"),)) from error
    finally:
        loader.dispose()
    if problems:
        raise ManifestError(source, tuple(problems))
    return documents


class _Reader:
    """Turns the nodes of one document into values, and notes lines and problems on the way."""

    def __init__(self, loader: yaml.SafeLoader) -> None:
        self.loader = loader
        self.lines: dict[Path, int] = {}
        self.problems: list[Problem] = []
        self._nodes = 0
        self._open: list[yaml.Node] = []

    def read(self, node: yaml.Node, path: Path) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise yaml.YAMLError(f"it holds more than {MAX_NODES} values, aliases counted")
        if any(node is around for around in self._open):
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: an alias contains itself")
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self._read_mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
            return self._read_scalar(node)
        finally:
            self._open.pop()

    def _read_mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                name = ".".join(str(part) for part in (*path, key.value))
                self.problems.append(
                    Problem(name, f"stands twice, first on line {seen[key.value]}", "remove one of the two", line)
                )
            if isinstance(key.value, str):
                seen.setdefault(key.value, line)
        self.loader.flatten_mapping(node)
        result: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: a key must be plain text")
            self.lines[(*path, key.value)] = key.start_mark.line + 1
            result[key.value] = self.read(value, (*path, key.value))
        return result

    def _read_scalar(self, node: yaml.Node) -> Any:
        if node.tag in {"tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value"}:
            return node.value
        return self.loader.construct_object(node)


def _syntax_problem(error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    text = error.problem or "is not YAML"
    remedy = "indent with spaces" if "\\t" in text else None
    return Problem("", f"is not YAML: {text}", remedy, mark.line + 1 if mark else None)
