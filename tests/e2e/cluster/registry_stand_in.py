"""A registry on loopback that takes uploads by the distribution specification, and checks every digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from octavo_testing.loopback import serving


class RegistryStandIn:
    """`blobs` by (repository, digest), `manifests` by (repository, tag or digest)."""

    def __init__(self) -> None:
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.manifests: dict[tuple[str, str], bytes] = {}
        self.uploads = 0
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200)

            def do_HEAD(self) -> None:
                repository, digest = self.path.removeprefix("/v2/").split("/blobs/")
                self._answer(200 if (repository, digest) in owner.blobs else 404)

            def do_POST(self) -> None:
                owner.uploads += 1
                self._answer(202, Location=f"http://elsewhere{self.path}{owner.uploads}?_state=x%3D")

            def do_PUT(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                path, _, query = self.path.removeprefix("/v2/").partition("?")
                if "/manifests/" in path:
                    repository, reference = path.split("/manifests/")
                    self._answer(201 if owner.take(repository, reference, content) else 400)
                    return
                state, digest = (part.partition("=")[2].replace("%3A", ":") for part in query.split("&"))
                right = state == "x%3D" and digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
                if right:
                    owner.blobs[path.split("/blobs/")[0], digest] = content
                self._answer(201 if right else 400)

            def _answer(self, status: int, **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing is printed."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def take(self, repository: str, reference: str, manifest: bytes) -> bool:
        """Keep a manifest, if all that it names is there."""
        content = json.loads(manifest)
        digests = [part["digest"] for part in [content.get("config"), *content.get("layers", [])] if part]
        children = [child["digest"] for child in content.get("manifests", [])]
        if not all((repository, digest) in self.blobs for digest in digests):
            return False
        if not all((repository, digest) in self.manifests for digest in children):
            return False
        self.manifests[repository, reference] = manifest
        return True

    @contextmanager
    def running(self) -> Iterator[RegistryStandIn]:
        with serving(self._server):
            yield self
