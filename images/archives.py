"""The contents of an OCI archive, and their size."""

from __future__ import annotations

import gzip
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

MEGABYTE = 1e6
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Layer:
    created_by: str
    compressed: int  # bytes, as a registry keeps and a node pulls them
    size: int  # bytes, as a tar archive


def layers(path: Path) -> list[Layer]:
    """The layers of the archive's only image, lowest first."""
    with tarfile.open(path) as archive:
        index = _json(archive, "index.json")
        manifest = _json(archive, _blob(index["manifests"][0]["digest"]))
        configuration = _json(archive, _blob(manifest["config"]["digest"]))
        made = [entry["created_by"] for entry in configuration["history"] if not entry.get("empty_layer")]
        return [
            Layer(by, layer["size"], _unpacked(archive, layer))
            for by, layer in zip(made, manifest["layers"], strict=True)
        ]


def report(reference: str, path: Path) -> str:
    """Sizes in MB (a million bytes), in all and by layer."""
    parts = layers(path)
    size, compressed = sum(each.size for each in parts), sum(each.compressed for each in parts)
    lines = [f"{reference:<28} {size / MEGABYTE:8.1f} MB, {compressed / MEGABYTE:.1f} MB compressed   {path}"]
    lines += [
        f"  {each.size / MEGABYTE:8.1f} MB, {each.compressed / MEGABYTE:6.1f} MB compressed   {_short(each.created_by)}"
        for each in parts
    ]
    return "\n".join(lines)


def _short(created_by: str) -> str:
    return created_by.removeprefix("/bin/sh -c #(nop) ")[:60]


def _unpacked(archive: tarfile.TarFile, layer: dict[str, Any]) -> int:
    stream = archive.extractfile(_blob(layer["digest"]))
    assert stream is not None
    if not layer["mediaType"].endswith("gzip"):
        return int(layer["size"])
    return _length(gzip.GzipFile(fileobj=stream))


def _length(stream: BinaryIO | gzip.GzipFile) -> int:
    total = 0
    while chunk := stream.read(CHUNK):
        total += len(chunk)
    return total


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _json(archive: tarfile.TarFile, name: str) -> Any:
    stream = archive.extractfile(name)
    assert stream is not None, name
    return json.load(stream)
