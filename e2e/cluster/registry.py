"""Pushes images into an OCI registry: the distribution specification's uploads, over plain HTTP.

A registry on the host's end of the veth pair is trusted by its address, so there is neither TLS nor a token here.
"""

from __future__ import annotations

import http.client
import json
import tarfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from e2e.cluster.images import MANIFEST, Image

NAME_ANNOTATION = "org.opencontainers.image.ref.name"
DOCKER_PREFIX = "docker.io/"
SECONDS = 60.0


class RegistryError(Exception):
    """The registry refused, or the archive is not one that can be pushed."""


class Registry:
    """A registry at a host and port."""

    def __init__(self, address: str) -> None:
        self.address = address

    def push(self, name: str, image: Image) -> None:
        """Put an image there under `repository:tag`."""
        repository, tag = split_name(name)
        for digest, blob in image.blobs.items():
            self._put_blob(repository, digest, blob, len(blob))
        self._put_manifest(repository, tag, MANIFEST, image.manifest)

    def push_archive(self, path: Path) -> list[str]:
        """Put the images of an OCI archive there, under the names it gives them; these names."""
        try:
            with tarfile.open(path) as archive:
                images = list(_named_manifests(archive, path))
                for name, descriptor in images:
                    repository, tag = split_name(name)
                    self._push_from(archive, repository, tag, descriptor)
        except (tarfile.TarError, KeyError) as error:
            raise RegistryError(
                f"{path} is no OCI archive ({error}); write one with `buildah push IMAGE oci-archive:FILE:NAME`"
            ) from error
        return [name.removeprefix(DOCKER_PREFIX) for name, _ in images]

    def _push_from(self, archive: tarfile.TarFile, repository: str, reference: str, descriptor: dict[str, Any]) -> None:
        manifest = _blob(archive, descriptor["digest"]).read()
        content = json.loads(manifest)
        for child in content.get("manifests", []):
            self._push_from(archive, repository, child["digest"], child)
        for part in [*([content["config"]] if "config" in content else []), *content.get("layers", [])]:
            self._put_blob(repository, part["digest"], _blob(archive, part["digest"]), part["size"])
        self._put_manifest(repository, reference, descriptor.get("mediaType", MANIFEST), manifest)

    def _put_blob(self, repository: str, digest: str, blob: bytes | BinaryIO, size: int) -> None:
        if self._request("HEAD", f"/v2/{repository}/blobs/{digest}", expected=(200, 404)).status == 200:
            return
        upload = self._request("POST", f"/v2/{repository}/blobs/uploads/", expected=(202,))
        place = urllib.parse.urlsplit(upload.headers["Location"])
        query = urllib.parse.urlencode([*urllib.parse.parse_qsl(place.query), ("digest", digest)])
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        self._request("PUT", f"{place.path}?{query}", blob, headers, expected=(201,))

    def _put_manifest(self, repository: str, reference: str, media_type: str, manifest: bytes) -> None:
        path = f"/v2/{repository}/manifests/{reference}"
        self._request("PUT", path, manifest, {"Content-Type": media_type}, expected=(201,))

    def _request(
        self,
        method: str,
        path: str,
        body: bytes | BinaryIO | None = None,
        headers: dict[str, str] | None = None,
        *,
        expected: tuple[int, ...],
    ) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self.address, timeout=SECONDS)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        if response.status not in expected:
            raise RegistryError(f"{method} http://{self.address}{path}: {response.status} {text.decode()[:300]}")
        return response


def split_name(name: str) -> tuple[str, str]:
    """(repository, tag) as this registry has them, which stands for docker.io: `octavo/engine:0.1.0`."""
    repository, _, tag = name.removeprefix(DOCKER_PREFIX).rpartition(":")
    if not repository or "/" in tag:
        raise RegistryError(f"the image name {name!r} has no tag")
    return repository, tag


def names_in(path: Path) -> list[str]:
    """The names that an OCI archive gives its images."""
    with tarfile.open(path) as archive:
        return [name for name, _ in _named_manifests(archive, path)]


def _named_manifests(archive: tarfile.TarFile, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    member = archive.extractfile(_member(archive, "index.json"))
    assert member is not None
    for descriptor in json.loads(member.read())["manifests"]:
        name = descriptor.get("annotations", {}).get(NAME_ANNOTATION, "")
        if ":" not in name:
            raise RegistryError(
                f"{path} gives its image no name; `buildah push IMAGE oci-archive:{path}:NAME:TAG` does"
            )
        yield name, descriptor


def _blob(archive: tarfile.TarFile, digest: str) -> BinaryIO:
    member = archive.extractfile(_member(archive, f"blobs/{digest.replace(':', '/')}"))
    assert member is not None
    return member  # type: ignore[return-value]


def _member(archive: tarfile.TarFile, name: str) -> str:
    return name if name in archive.getnames() else f"./{name}"
