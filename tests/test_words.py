"""User-visible strings, docstrings and comments use the glossary's words, and none of those that it replaces."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
GLOSSARY = ROOT / "docs" / "glossary.md"
SOURCES = sorted(
    path
    for package in ("engine/octavo", "engine/octavo_engine", "engine/octavo_models", "operator/octavo_operator")
    for path in (ROOT / package).rglob("*.py")
)
OTHERS = sorted(
    path
    for folder in ("testing", "e2e", "bench", "scripts", "images", "charts")
    for path in (ROOT / folder).rglob("*.py")
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PAGES = [
    *(
        ROOT / name
        for name in (
            "README.md",
            "CONTRIBUTING.md",
            "SECURITY.md",
            "images/README.md",
            "charts/octavo/templates/NOTES.txt",
        )
    ),
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if path.name not in {"LOG.md", "glossary.md"}),
]
OTHERWISE = re.compile(
    r"status\.plan\.cards|`card`|\"nobody\" \(no rights\)|(package|index|web|memory|mapped) page|page cache|page[- ](size|locked)|huge pages?|One page each",
    re.IGNORECASE,
)
"""Banned words in another sense."""


def banned() -> list[str]:
    """The words of the glossary's last table."""
    table = GLOSSARY.read_text(encoding="utf-8").split("## Words that are not used")[1]
    cells = re.findall(r"^\| ([^|]+) \|", table, flags=re.MULTILINE)[1:]
    words = [word.strip() for cell in cells for word in re.sub(r"\(.*?\)", "", cell).split(",")]
    assert len(words) > 15
    return words


OPENING = re.compile(
    r"(?:what|whether|how|why|which|who|whose|where|when|(?:what|who|which|where|when|how)ever"
    r"|of|from|as|by|in|with|for|between|without|on|at|to|until|after|before|under|over|per|within|during"
    r"|and|or|nor|but|also|so|not|those|none|it|they|its|their|there|then|even|else)\b",
    re.IGNORECASE,
)
"""First words of a docstring that is no verb or noun phrase, or that goes on where its function's name ends."""
FRAGMENT = re.compile(
    r"(?:whether|how|why|who|whose|of|from|as|by|to|into|per|until|and|or|nor|but|also|so|not|it|they|those|then|else|even)\b",
    re.IGNORECASE,
)
"""First words of a test's docstring that is no sentence on a behaviour without the test's name."""

BANNED = re.compile(r"\b(" + "|".join(word.replace(" ", r"\s+") for word in banned()) + r")\b", re.IGNORECASE)


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """Texts of more than one word in a module, docstrings left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Constant) and isinstance(node.value, str)) or id(node) in bare:
            continue
        if " " in node.value.strip() or re.fullmatch(r" [a-z]+", node.value):  # a sentence, or the end of one
            yield node.lineno, node.value


@cache
def docstrings(path: Path) -> list[tuple[int, str, str]]:
    """Docstrings, and strings that stand alone below a field: line, the name of what holds it, text."""
    return [
        (bare.lineno, getattr(node, "name", ""), bare.value.value.strip())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(body := getattr(node, "body", None), list)
        for bare in body
        if isinstance(bare, ast.Expr) and isinstance(bare.value, ast.Constant) and isinstance(bare.value.value, str)
    ]


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Docstrings line by line, and comments."""
    for first, _, text in docstrings(path):
        yield from enumerate(text.splitlines(), first)
    source = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def words_of(name: str) -> list[str]:
    """The words of an identifier, spelled with underscores or capitals."""
    return re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)


def wrong(text: str) -> list[str]:
    return BANNED.findall(OTHERWISE.sub("", text))


def test_messages_use_the_glossarys_words():
    """Every string of more than one word in the sources counts as something that a user may read."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: {', '.join(words)}: {text!r:.100}"
        for path in SOURCES
        for line, text in strings(path)
        if (words := wrong(text))
    ]
    assert not found, "\n".join(found)


def test_docstrings_and_comments_use_the_glossarys_words():
    found = [
        f"{path.relative_to(ROOT)}:{line}: {', '.join(words)}: {text.strip()!r:.100}"
        for path in (*SOURCES, *OTHERS, *TESTS)
        for line, text in prose(path)
        if (words := wrong(text))
    ]
    assert not found, "\n".join(found)


def test_docstrings_begin_with_a_verb_or_a_noun():
    """A small list of first words is denied: question words, prepositions, conjunctions and pronouns."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]!r:.100}"
        for path in (*SOURCES, *OTHERS, *TESTS)
        for line, name, text in docstrings(path)
        if not name.startswith("test_") and OPENING.match(text)
    ]
    assert not found, "\n".join(found)


def test_docstrings_of_tests_state_a_behaviour():
    """A sentence may begin with a condition ("With a second GPU free …"), but not in the middle."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]!r:.100}"
        for path in TESTS
        for line, name, text in docstrings(path)
        if name.startswith("test_") and FRAGMENT.match(text)
    ]
    assert not found, "\n".join(found)


def test_comments_of_the_native_executor_use_the_glossarys_words():
    paths = [path for path in (ROOT / "engine").rglob("*") if path.suffix in {".h", ".cpp", ".inc"}]
    assert paths
    found = [
        f"{path.relative_to(ROOT)}:{i}: {comment}"
        for path in paths
        for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if wrong(comment := line.partition("//")[2])
    ]
    assert not found, "\n".join(found)


def test_manifests_alerts_and_dashboards_use_the_glossarys_words():
    """Comments and texts of what people install; the CustomResourceDefinition has a test of its own."""
    paths = [
        path
        for folder in ("config", "charts")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".yaml", ".json", ".tpl"} and "llmservices" not in path.name
    ]
    assert len(paths) > 20
    found = [
        f"{path.relative_to(ROOT)}:{i}: {line.strip()}"
        for path in paths
        for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if wrong(line)
    ]
    assert not found, "\n".join(found)


def test_names_in_the_operator_use_the_glossarys_words():
    """A name is split into words. Lists of the API server are paged; `status.plan.cards` is API, and stays."""
    found = [
        f"{path.relative_to(ROOT)}:{token.start[0]}: {token.string}"
        for path in SOURCES
        if "octavo_operator" in path.parts and path.parts[-2:] != ("api", "status.py")
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
        if token.type == tokenize.NAME
        and any(BANNED.fullmatch(word) for word in words_of(token.string) if word.lower() not in {"page", "pages"})
    ]
    assert not found, "\n".join(found)


def test_field_descriptions_use_the_glossarys_words():
    crd = yaml.safe_load(next((ROOT / "config" / "crd").glob("*llmservices.yaml")).read_text(encoding="utf-8"))
    found: list[str] = []

    def look(node: object, where: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                if key in {"description", "message"} and isinstance(value, str) and wrong(value):
                    found.append(f"{where}: {value}")
                look(value, f"{where}.{key}")
        elif isinstance(node, list):
            for item in node:
                look(item, where)

    look(crd, "")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_use_the_glossarys_words(path):
    """A phrase counts where a line ends within it, too."""
    assert not wrong(path.read_text(encoding="utf-8"))
