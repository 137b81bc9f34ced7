"""The documents that people paste from: their fenced blocks, commands in them, and code spans."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOTES = ROOT / "charts" / "octavo" / "templates" / "NOTES.txt"
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "e2e/*.md", "images/*.md")
    for path in ROOT.glob(pattern)
    if path.name not in {"CHANGELOG.md", "LOG.md"}  # of their days
)
PROGRAMS = {"make", "octavo", "kubectl", "helm", "curl", "docker", "python", "pip", "export", "kill"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMPT = re.compile(r"^(?:node \d)?\$ ")
HEREDOC = re.compile(r"<<'(\w+)'")
ASSIGNMENT = re.compile(r"[A-Z][A-Z0-9_]*=")
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*$|.*…")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. Without a language it is shell: a script, or a session whose commands follow a prompt."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True, slots=True)
class Command:
    """One simple command: its words, variables set before it, and its heredoc."""

    where: str
    words: tuple[str, ...]
    variables: tuple[str, ...] = ()
    stdin: str | None = None

    @property
    def program(self) -> str:
        return Path(self.words[0]).name


def blocks(*languages: str) -> list[Block]:
    """The blocks of all documents in these languages, with the chart's notes among those of the shell."""
    found = [
        Block(page, text[: match.start()].count("\n") + 1, match[1], match[2])
        for page in PAGES
        for text in [page.read_text(encoding="utf-8")]
        for match in FENCE.finditer(text)
        if match[1] in languages
    ]
    if "" in languages:
        found.append(Block(NOTES, 1, "", notes()))
    return found


def notes() -> str:
    """The chart's notes for a release in octavo-system that watches all namespaces: their commands, and no prose."""
    text = NOTES.read_text(encoding="utf-8").replace("{{ $in }}", "")
    for value, stands in {
        "$.Release.Name": "octavo",
        "Release.Name": "octavo",
        "Release.Namespace": "octavo-system",
    }.items():
        text = re.sub(r"\{\{ \$?\.?" + re.escape(value.removeprefix("$.")) + r" \}\}", stands, text)
    kept: list[str] = []
    end = None
    for line in text.splitlines():
        if end is None and not (kept and kept[-1].endswith("\\")) and line.strip().partition(" ")[0] not in PROGRAMS:
            continue
        kept.append(line if end or (kept[-1:] and kept[-1].endswith("\\")) else line.strip())
        if end is None:
            end = opened[1] if (opened := HEREDOC.search(line)) else None
        elif line == end:
            end = None
    assert end is None, f"the end of the heredoc, {end}, does not begin its line"
    return "\n".join(kept) + "\n"


def script(block: Block) -> str:
    """The part of a block that a shell would run."""
    lines = block.text.splitlines()
    typed = [PROMPT.sub("", line) for line in lines if PROMPT.match(line)]
    return "\n".join(typed or lines) + "\n"


def commands(text: str, where: str) -> Iterator[Command]:
    """The simple commands of a script."""
    lines = iter(text.replace("\\\n", " ").splitlines())
    for line in lines:
        body = None
        if opened := HEREDOC.search(line):
            held = []
            for each in lines:
                if each == opened[1]:
                    break
                held.append(each)
            body = "\n".join(held)
        words: list[str] = []
        for word in [*_words(line, lines), ";"]:
            if set(word) <= set("|&;"):
                yield from command(words, where, body)
                words = []
            else:
                words.append(word)


def _words(line: str, rest: Iterator[str]) -> list[str]:
    """The shell's words of a line, and of those of `rest` over which a quotation goes on."""
    while True:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            return list(lexer)
        except ValueError:
            line = f"{line}\n{next(rest)}"


def command(words: list[str], where: str, stdin: str | None = None) -> Iterator[Command]:
    if any(set(word) <= set("<>") for word in words):
        words = words[: next(i for i, word in enumerate(words) if set(word) <= set("<>"))]
    variables = [word for word in words if ASSIGNMENT.match(word)] if words and ASSIGNMENT.match(words[0]) else []
    rest = tuple(words[len(variables) :])
    if rest:
        yield Command(where, rest, tuple(variables), stdin)


def spans(page: Path) -> Iterator[tuple[str, str]]:
    """Code spans outside of fenced blocks, with their places."""
    text = FENCE.sub(lambda block: "\n" * block[0].count("\n"), page.read_text(encoding="utf-8"))
    for match in re.finditer(r"`([^`]+)`", text):
        yield f"{page.relative_to(ROOT)}:{text[: match.start()].count(chr(10)) + 1}", " ".join(match[1].split())


def span_commands() -> Iterator[Command]:
    """The code spans that are a command: a program of ours with arguments, not a line that it prints."""
    for page in PAGES:
        for where, span in spans(page):
            words = span.split()
            first = next((Path(word).name for word in words if not ASSIGNMENT.match(word)), "")
            mention = len(words) < 2 or words[1].endswith(":") or (first == "curl" and words[-1].startswith("-"))
            if first in PROGRAMS and not mention:
                yield from commands(span.replace("\\|", "|"), where)
