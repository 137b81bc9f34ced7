"""A cluster that the suite does not own: the one of $KUBECONFIG, or kind's."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

from octavo_testing.kubernetes_binaries import build

from e2e.cluster.handles import Cluster, MissingError, Urls
from e2e.cluster.host_services import FolderHub, FolderIndex, publish_defaults, publish_model, publish_package
from e2e.cluster.registry import Registry, names_in

REGISTRY = "OCTAVO_E2E_REGISTRY"  # host:port, plain HTTP, that nodes pull from
HOST = "OCTAVO_E2E_HOST"  # this machine's address as pods reach it


class GivenCluster(Cluster):
    """Index and hub stand-ins run in this process, on an address of this machine that pods reach."""

    pull_policy = "Always"

    def __init__(self, kubeconfig: Path, registry: str, host: str) -> None:
        folder = Path(tempfile.mkdtemp(prefix="octavo-e2e-"))
        stack = ExitStack()
        atexit.register(stack.close)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        index, hub = FolderIndex(folder / "packages", address=host), FolderHub(folder / "hub", address=host)
        for server in (index, hub):
            stack.enter_context(server.running())
        super().__init__(kubeconfig, Urls(registry, index.index_url, hub.url))
        self.image_registry = registry
        self.folder = folder
        publish_defaults(folder)

    def tool(self, name: str) -> Path:
        """The one on PATH, for it fits the cluster's version; else the one that is built here."""
        found = shutil.which(name)
        return Path(found) if found else build.binary(name)

    def push_image(self, archive: Path) -> list[str]:
        return [f"{self.urls.registry}/{name}" for name in Registry(self.urls.registry).push_archive(archive)]

    def publish_model(self, name: str, folder: Path, token: str | None = None) -> None:
        publish_model(self.folder, name, folder, token)

    def publish_package(self, wheel: Path) -> None:
        publish_package(self.folder, wheel)


class KindCluster(GivenCluster):
    """kind's cluster: images are loaded into its nodes, not pulled."""

    pull_policy = "IfNotPresent"

    def __init__(self, name: str) -> None:
        self.name = name
        folder = Path(tempfile.mkdtemp(prefix="octavo-kind-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        kubeconfig = folder / "kubeconfig"
        kubeconfig.touch(0o600)
        kubeconfig.write_text(_output("kind", "get", "kubeconfig", "--name", name))
        super().__init__(kubeconfig, "", _kind_gateway())

    def push_image(self, archive: Path) -> list[str]:
        _output("kind", "load", "image-archive", str(archive), "--name", self.name)
        return names_in(archive)


def given_cluster() -> GivenCluster | None:
    """$KUBECONFIG's cluster. Raises MissingError, a sentence each, for the settings that the suite lacks."""
    kubeconfig = os.environ.get("KUBECONFIG", "")
    if not kubeconfig:
        return None
    wanted = {
        REGISTRY: "names a registry (HOST:PORT, plain HTTP) that this machine pushes to and the cluster's nodes pull from",
        HOST: "names this machine's address as the cluster's pods reach it",
    }
    lacking = [
        f"KUBECONFIG is set, so {name} has to be: it {what}."
        for name, what in wanted.items()
        if not os.environ.get(name)
    ]
    if not Path(kubeconfig).expanduser().is_file():
        lacking.insert(
            0, f"KUBECONFIG is {kubeconfig}, and there is no such file; the suite takes one file, not a list."
        )
    if lacking:
        raise MissingError(*lacking)
    return GivenCluster(Path(kubeconfig).expanduser(), os.environ[REGISTRY], os.environ[HOST])


def kind_cluster(name: str) -> KindCluster | None:
    """kind's cluster of this name, made if need be, where kind and docker are installed."""
    if not shutil.which("kind") or not shutil.which("docker"):
        return None
    if name not in _output("kind", "get", "clusters").split():
        _output("kind", "create", "cluster", "--name", name)
    return KindCluster(name)


def _kind_gateway() -> str:
    """The host's IPv4 address in the network that kind makes in docker."""
    (network,) = json.loads(_output("docker", "network", "inspect", "kind"))
    return next(str(part["Gateway"]) for part in network["IPAM"]["Config"] if "." in part.get("Gateway", ""))


def _output(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingError(f"{' '.join(argv)} failed: {done.stderr.strip()}")
    return done.stdout
