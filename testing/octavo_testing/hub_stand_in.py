"""A stand-in for the Hugging Face hub on loopback: the parts of its protocol that huggingface_hub uses to read models.

As at the hub no file lies at its `resolve` address. A small one is redirected within the hub, by a relative address;
what lies in LFS is redirected to another host, which signs its addresses and refuses a token beside the signature; the
hub's answer has the size and the hash of what is there.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from octavo_testing.loopback import Asked, Body, LoopbackServer

CACHE, STORE = "/api/resolve-cache/models/", "/lfs/"
ELSEWHERE = "localhost"  # to a client another host than 127.0.0.1
SMALL = (".json", ".jinja", ".txt", ".md", ".py")  # are in git itself, not in LFS


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
        """The files whose contents were asked for."""
        places = [path.partition("?")[0] for path in self.paths()]
        return [
            place.removeprefix(prefix).split("/", 3)[3]
            for place in places
            for prefix in (CACHE, STORE)
            if place.startswith(prefix)
        ]

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
        for place in (CACHE, STORE):
            if f"/{path}".startswith(place):
                owner, model, _, file = f"/{path}".removeprefix(place).split("/", 3)
                return self._content(asked, f"{owner}/{model}", file, stored=place == STORE)
        name, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        return self._redirect(asked, name, revision, file)

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

    def _redirect(self, asked: Asked, name: str, revision: str, file: str) -> tuple[int, Body]:
        refusal = self._refusal(asked, name, revision)
        if refusal is not None:
            return refusal
        repository = self.repositories[name]
        body = repository.files.get(file)
        if body is None:
            return _error(404, "EntryNotFound", "Entry not found")
        path, headers = f"{name}/{repository.commit}/{file}", {"X-Repo-Commit": repository.commit}
        if file.endswith(SMALL):
            return 307, Body(b"", {**headers, "Location": f"{CACHE}{path}"})
        linked = {"X-Linked-ETag": f'"{_etag(body)}"', "X-Linked-Size": str(len(body.content))}
        host = asked.headers["Host"].replace("127.0.0.1", ELSEWHERE)
        return 302, Body(b"", {**headers, **linked, "Location": f"http://{host}{STORE}{path}?X-Amz-Signature=1"})

    def _content(self, asked: Asked, name: str, file: str, *, stored: bool) -> tuple[int, Body]:
        repository = self.repositories[name]
        if stored and ELSEWHERE in asked.headers["Host"] and "Authorization" in asked.headers:
            return 400, Body(b"Only one auth mechanism allowed")
        if not stored and (refusal := self._refusal(asked, name, repository.commit)) is not None:
            return refusal
        body = repository.files[file]
        # On the hub's own host, as a mirror's store is, it answers with the facts of a file.
        own = {} if stored and ELSEWHERE in asked.headers["Host"] else {"X-Repo-Commit": repository.commit}
        body.headers.update({"ETag": f'"{_etag(body)}"', "Accept-Ranges": "bytes", **own})
        return 200, body


def _etag(body: Body) -> str:
    return hashlib.sha256(body.content).hexdigest()


def _error(status: int, code: str, message: str) -> tuple[int, Body]:
    return status, Body(b"", {"X-Error-Code": code, "X-Error-Message": message})
