"""Keeps from a pinned image the flags and built-in chat templates that its version of the engine does not have."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from octavo_operator.api.engine import Engine
from octavo_operator.api.model import ChatTemplate
from octavo_operator.planner.arguments import TEMPLATE_PATH
from octavo_operator.planner.images import Reference, image_of
from octavo_operator.planner.plan import Hardware
from octavo_operator.runtimes import OCTAVO, runtime_of
from octavo_operator.runtimes.octavo import FIRST
from octavo_operator.runtimes.runtime import Version
from octavo_operator.settings import Settings

SINCE = OCTAVO.flags_since
TEMPLATES = OCTAVO.templates_since
OLDEST = FIRST


def version_of(engine: Engine, hardware: Hardware, settings: Settings) -> Version | None:
    """The engine's version by its image's tag, or else the one that the settings go with.

    None where neither shows it: another runtime, or a repository that the manifest names.
    """
    if not runtime_of(engine).flags_since or (engine.image is not None and engine.image.repository is not None):
        return None
    tag = Reference.parse(image_of(engine, hardware, settings)).tag
    return parsed_version(tag or "") or parsed_version(settings.version) or OLDEST


def known(line: Sequence[str], version: Version | None, since: Mapping[str, Version] = SINCE) -> tuple[str, ...]:
    """The line without the flags, and their values, that the version lacks."""
    kept, words = True, []
    for word in line:
        if word.startswith("--"):
            kept = version is None or since.get(word, OLDEST) <= version
        if kept:
            words.append(word)
    return tuple(words)


def warnings(line: Sequence[str], version: Version | None, since: Mapping[str, Version] = SINCE) -> tuple[str, ...]:
    """A warning about the fields whose flags the version lacks."""
    left_out = [word for word in line if word.startswith("--") and word not in known(line, version, since)]
    if version is None or not left_out:
        return ()
    needed = ".".join(map(str, max(since[flag] for flag in left_out)))
    flags = ", ".join(left_out)
    text = (
        f"the engine's version {'.'.join(map(str, version))} does not know {flags}, which came with {needed}: what "
        "they stand for takes effect once the service has the newer image (see the condition UpToDate)"
    )
    return (text,)


def template_argument(template: ChatTemplate | None, version: Version | None) -> str | None:
    """The value of `--chat-template`; None where the manifest has none, or the version lacks the built-in one."""
    if template is None or _came_later(template, version):
        return None
    return template.name or TEMPLATE_PATH


def template_warnings(template: ChatTemplate | None, version: Version | None) -> tuple[str, ...]:
    """A warning about a built-in template that the version lacks."""
    if template is None or version is None or not _came_later(template, version):
        return ()
    assert template.name is not None
    needed = ".".join(map(str, TEMPLATES[template.name]))
    text = (
        f"the engine's version {'.'.join(map(str, version))} does not have the chat template {template.name}, which came "
        f"with {needed}: it takes effect once the service has the newer image (see the condition UpToDate)"
    )
    return (text,)


def _came_later(template: ChatTemplate, version: Version | None) -> bool:
    return version is not None and template.name is not None and TEMPLATES.get(template.name, OLDEST) > version


def parsed_version(text: str) -> Version | None:
    """The version that a text begins with; None where it begins with none."""
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", text)
    return None if found is None else (int(found[1]), int(found[2]), int(found[3]))
