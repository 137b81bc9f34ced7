"""Builds and asks the command in tests/gitops/argocd: Argo CD's and Flux's own code, kept outside the tree."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from octavo_testing.kubernetes_binaries import build

SOURCES = Path(__file__).parent / "argocd"
Object = dict[str, Any]


def binary() -> Path:
    """The command, built if its sources or modules are new. Raises BuildError with what to do."""
    folder = build.cache_folder() / "gitops"
    sources = sorted(path for path in SOURCES.iterdir() if path.suffix in {".go", ".mod", ".sum"})
    made = folder / f"argocd-{hashlib.sha256(b''.join(path.read_bytes() for path in sources)).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    if not made.exists():
        with build._locked(folder):
            if not made.exists():  # another builder may have been at it meanwhile
                _build(made)
    return made


def _build(made: Path) -> None:
    started, go = time.monotonic(), build.find_go()
    build.say("building Argo CD's health, diff and sync for tests/gitops, once, some minutes")
    # Argo CD needs a newer Go than Kubernetes does: go fetches it as a module, as its go.mod asks for.
    environment = {**build._go_environment(go), "GOTOOLCHAIN": "auto"}
    with tempfile.TemporaryDirectory(prefix=build.SCRATCH, dir=made.parent) as scratch:
        half = Path(scratch) / made.name
        done = subprocess.run(
            [go, "build", "-trimpath", "-ldflags", "-s -w", "-o", half, "."],
            cwd=SOURCES,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            tail = "\n".join(done.stderr.splitlines()[-20:])
            raise build.BuildError(f"Argo CD's code did not build; is a Go module proxy reachable?\n{tail}")
        half.rename(made)
    build.say(f"built ({time.monotonic() - started:.0f} s)")


class ArgoCD:
    """Argo CD as config/argocd configures it, or with other `overrides`."""

    def __init__(self, command: Path, overrides: dict[str, Object]) -> None:
        self.command = command
        self.overrides = overrides

    def ask(self, verb: str, objects: list[Object], **request: Any) -> list[Object]:
        """One answer an object. Raises AssertionError with Argo CD's words."""
        body = {"verb": verb, "objects": objects, "overrides": self.overrides, **request}
        done = subprocess.run(
            [self.command], input=json.dumps(body), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        answers: list[Object] = json.loads(done.stdout)
        return answers


def overrides_of(config_map: Object) -> dict[str, Object]:
    """argocd-cm's `resource.customizations.WHAT.GROUP_KIND`, as Argo CD files them: by group/Kind."""
    found: dict[str, Object] = {}
    for key, text in config_map["data"].items():
        what, _, of = key.removeprefix("resource.customizations.").partition(".")
        found.setdefault(of.replace("_", "/"), {})["health.lua" if what == "health" else what] = text
    return found
