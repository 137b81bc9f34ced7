"""A stand-in for the Hugging Face hub on loopback: the parts of its protocol that huggingface_hub uses to read models."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from octavo_testing.loopback import Asked, Body, LoopbackServer


@dataclass
class Repository:
    """A model's files at one commit. `token`: who may read it; `gated`: known to exist, but not to be read."""

    files: dict[str, Body]
    commit: str
    token: str | None = None
    gated: bool = False
    branches: set[str] = field(default_factory=lambda: {"main"})


class HubStandIn(LoopbackServer):
    """`add` puts a model there; `down` makes it answer 503 to everything."""

    def __init__(self, **place: Any) -> None:
        super().__init__(**place)
        self.repositories: dict[str, Repository] = {}
        self.down = False

    def add(self, name: str, files: dict[str, bytes], **options: Any) -> Repository:
        digest = hashlib.sha1(b"".join(files.values()), usedforsecurity=False).hexdigest()
        bodies = {path: Body(content) for path, content in files.items()}
        self.repositories[name] = Repository(bodies, digest, **options)
        return self.repositories[name]

    def downloads(self) -> list[str]:
        return [path.partition("/resolve/")[2].partition("/")[2] for path in self.paths() if "/resolve/" in path]

    def answer(self, asked: Asked) -> tuple[int, Body]:
        if self.down:
            return 503, Body(b"")
        path = asked.path.partition("?")[0].strip("/")
        if path.startswith("api/models/") and "/tree/" in path:
            name, _, revision = path.removeprefix("api/models/").partition("/tree/")
            return self._tree(asked, name, revision)
        if path.startswith("api/models/"):
            name, _, rest = path.removeprefix("api/models/").partition("/revision/")
            return self._info(asked, name, rest or "main")
        name, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        return self._file(asked, name, revision, file)

    def _refusal(self, asked: Asked, name: str, revision: str) -> tuple[int, Body] | None:
        repository = self.repositories.get(name)
        authorized = repository is not None and (
            repository.token is None or asked.headers.get("Authorization") == f"Bearer {repository.token}"
        )
        if repository is not None and repository.gated and not authorized:
            return _error(401, "GatedRepo", f"Access to model {name} is restricted.")
        if repository is None or not authorized:
            return _error(401, "RepoNotFound", "Repository not found")
        if revision not in {*repository.branches, repository.commit}:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return None

    def _info(self, asked: Asked, name: str, revision: str) -> tuple[int, Body]:
        # A gated model's list of files can be seen by all, as on the hub.
        refusal = self._refusal(asked, name, revision)
        repository = self.repositories.get(name)
        if refusal is not None and not (repository is not None and repository.gated):
            return refusal
        assert repository is not None
        page = {
            "_id": "0",
            "id": name,
            "modelId": name,
            "sha": repository.commit,
            "private": False,
            "gated": "manual" if repository.gated else False,
            "tags": [],
            "siblings": [{"rfilename": path} for path in repository.files],
        }
        return 200, Body(json.dumps(page).encode(), {"Content-Type": "application/json"})

    def _tree(self, asked: Asked, name: str, revision: str) -> tuple[int, Body]:
        """All files with their sizes, which snapshot_download asks for, whatever folders they lie in."""
        refusal = self._refusal(asked, name, revision)
        if refusal is not None:
            return refusal
        files = [
            {"type": "file", "path": path, "size": len(body.content), "oid": _etag(body)}
            for path, body in self.repositories[name].files.items()
        ]
        return 200, Body(json.dumps(files).encode(), {"Content-Type": "application/json"})

    def _file(self, asked: Asked, name: str, revision: str, file: str) -> tuple[int, Body]:
        refusal = self._refusal(asked, name, revision)
        if refusal is not None:
            return refusal
        repository = self.repositories[name]
        body = repository.files.get(file)
        if body is None:
            return _error(404, "EntryNotFound", "Entry not found")
        body.headers.update({"ETag": f'"{_etag(body)}"', "X-Repo-Commit": repository.commit, "Accept-Ranges": "bytes"})
        return 200, body


def _etag(body: Body) -> str:
    return hashlib.sha256(body.content).hexdigest()


def _error(status: int, code: str, message: str) -> tuple[int, Body]:
    return status, Body(b"", {"X-Error-Code": code, "X-Error-Message": message})
