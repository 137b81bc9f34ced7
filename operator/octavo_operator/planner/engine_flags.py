"""Which version of the engine brought which flag: a pinned image is not given one that it does not know.

A flag that the operator begins to render is added here with the version that comes next; a test compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from octavo_operator.api.engine import Engine
from octavo_operator.planner.images import Reference, image_of
from octavo_operator.planner.plan import Hardware
from octavo_operator.settings import Settings

Version = tuple[int, int, int]

OLDEST: Version = (0, 1, 0)
"""The first release; before it no image was pinned."""

SINCE: dict[str, Version] = {
    "--served-model-name": (0, 1, 0),
    "--revision": (0, 1, 0),
    "--file": (0, 1, 0),
    "--dtype": (0, 1, 0),
    "--quantization": (0, 1, 0),
    "--max-model-len": (0, 1, 0),
    "--max-num-seqs": (0, 1, 0),
    "--max-num-batched-tokens": (0, 1, 0),
    "--block-size": (0, 1, 0),
    "--kv-cache-memory-bytes": (0, 1, 0),
    "--executor": (0, 1, 0),
    "--device": (0, 1, 0),
    "--gpu-memory-utilization": (0, 1, 0),
    "--tensor-parallel-size": (0, 1, 0),
    "--pipeline-parallel-size": (0, 1, 0),
    "--swap-space": (0, 1, 0),
    "--enforce-eager": (0, 1, 0),
    "--no-enable-prefix-caching": (0, 1, 0),
    "--shutdown-timeout": (0, 1, 0),
}


def version_of(engine: Engine, hardware: Hardware, settings: Settings) -> Version | None:
    """The engine's version by its image's tag, or else the one that the settings go with.

    None where that says nothing: of another runtime, or of a repository that the manifest names.
    """
    if engine.runtime != "octavo" or (engine.image is not None and engine.image.repository is not None):
        return None
    tag = Reference.parse(image_of(engine, hardware, settings)).tag
    return _parsed(tag or "") or _parsed(settings.version) or OLDEST


def known(line: Sequence[str], version: Version | None, since: dict[str, Version] = SINCE) -> tuple[str, ...]:
    """The line without the flags, and their values, that the version does not know."""
    kept, words = True, []
    for word in line:
        if word.startswith("--"):
            kept = version is None or since.get(word, OLDEST) <= version
        if kept:
            words.append(word)
    return tuple(words)


def warnings(line: Sequence[str], version: Version | None, since: dict[str, Version] = SINCE) -> tuple[str, ...]:
    """What the fields behind those flags come to."""
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


def _parsed(text: str) -> Version | None:
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", text)
    return None if found is None else (int(found[1]), int(found[2]), int(found[3]))
