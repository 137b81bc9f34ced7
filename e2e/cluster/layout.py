"""The names, addresses and folders of one cluster. Every other module asks here; nothing is written twice."""

from __future__ import annotations

import errno
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from octavo_testing.kubernetes_binaries import build

from e2e.cluster.handles import MissingError, Urls

ROOT = Path(__file__).resolve().parents[2]
HANDED_OUT = ".cluster"
MOST_NODES = 2
DOMAIN = "cluster.local"
REGISTRY_PORT, INDEX_PORT, HUB_PORT = 5000, 5001, 5002


@dataclass(frozen=True, slots=True)
class Node:
    """One node. Its address lies in 10.88.N.0/24, those of its pods in half of 10.89.N.0/24; or fd88:N:: and fd89:N::."""

    name: str
    address: str
    pods: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Layout:
    """A cluster by its name and its number N, of which no other cluster of this machine has the same.

    Its nodes, pods and Services have addresses of one family: IPv4, or IPv6 where `ipv6` is set.
    """

    name: str
    number: int
    ipv6: bool = False

    @property
    def folder(self) -> Path:
        """Everything that the cluster writes. No path that a node hides from its processes (/run, /var/lib, /var/log)."""
        return clusters() / self.name

    @property
    def link(self) -> str:
        """The one network device on the host."""
        return f"octavo{self.number}"

    @property
    def host(self) -> str:
        return f"fd88:{self.number}::1" if self.ipv6 else f"10.88.{self.number}.1"

    @property
    def any_address(self) -> str:
        """The address on which daemons listen that others reach."""
        return "::" if self.ipv6 else "0.0.0.0"

    @property
    def network_bits(self) -> int:
        """The prefix length of the network of host and nodes."""
        return 64 if self.ipv6 else 24

    @property
    def pods(self) -> str:
        return f"fd89:{self.number}::/64" if self.ipv6 else f"10.89.{self.number}.0/24"

    @property
    def services(self) -> str:
        return "fd96::/112" if self.ipv6 else "10.96.0.0/16"

    @property
    def api_service(self) -> str:
        """The address that the API server gives its own Service: the first."""
        return "fd96::1" if self.ipv6 else "10.96.0.1"

    @property
    def dns_service(self) -> str:
        return "fd96::a" if self.ipv6 else "10.96.0.10"

    def node(self, index: int) -> Node:
        """The node with this index, from 1."""
        name = f"node-{index}"
        if self.ipv6:
            address, pods = f"fd88:{self.number}::{10 + index}", f"fd89:{self.number}::{index}:0:0:0/80"
        else:
            address, pods = f"10.88.{self.number}.{10 + index}", f"10.89.{self.number}.{128 * (index - 1)}/25"
        return Node(name, address, pods, self.folder / name)

    @property
    def nodes(self) -> list[Node]:
        """The nodes that have a folder; the first runs the control plane too."""
        return [node for node in map(self.node, range(1, MOST_NODES + 1)) if node.folder.exists()]

    @property
    def server(self) -> str:
        return f"https://{in_url(self.node(1).address)}:6443"

    @property
    def urls(self) -> Urls:
        host = in_url(self.host)
        return Urls(f"{host}:{REGISTRY_PORT}", f"http://{host}:{INDEX_PORT}/simple", f"http://{host}:{HUB_PORT}")

    @property
    def cgroup(self) -> str:
        return f"octavo-cluster/{self.name}"

    @property
    def handed_out(self) -> list[Path]:
        """The folders of checkouts that got the administrator's kubeconfig."""
        file = self.folder / "handed-out"
        return [Path(line) for line in file.read_text().splitlines()] if file.exists() else []

    def hand_out(self) -> Path:
        """The folder in this checkout for the kubeconfig; it is recorded, so that removing the cluster empties it."""
        here = ROOT / HANDED_OUT
        folder = here if self.name == "octavo" else here / self.name
        noted = dict.fromkeys([*self.handed_out, folder])
        (self.folder / "handed-out").write_text("".join(f"{path}\n" for path in noted))
        return folder

    @property
    def complete(self) -> Path:
        """A file that is there once the cluster has been brought up whole."""
        return self.folder / "complete"


def in_url(address: str) -> str:
    """An address as URLs and HOST:PORT spell it."""
    return f"[{address}]" if ":" in address else address


def clusters() -> Path:
    folder: Path = build.cache_folder() / "clusters"
    return folder


def chosen_name() -> str:
    """$OCTAVO_CLUSTER, or `octavo`. Raises MissingError for what can't be the name of files and devices."""
    name = os.environ.get("OCTAVO_CLUSTER") or "octavo"
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", name):
        raise MissingError(
            f"OCTAVO_CLUSTER is {name!r}, but has to be lower-case letters, digits and dashes, at most 32."
        )
    return name


def known(name: str) -> Layout | None:
    """The cluster of this name, if it has left anything in its folder."""
    folder = clusters() / name
    try:
        return Layout(name, int((folder / "number").read_text()), (folder / "ipv6").exists())
    except (FileNotFoundError, ValueError):
        return None


def claim(name: str, *, ipv6: bool = False) -> Layout:
    """The cluster of this name with its folder; a new one gets the first number that is free."""
    with locked(" numbers"):  # no cluster's name has a blank
        found = known(name)
        if found:
            return found
        taken = {layout.number for layout in everyone()}
        layout = Layout(name, next(number for number in range(256) if number not in taken), ipv6)
        layout.folder.mkdir(parents=True, exist_ok=True)
        if ipv6:
            (layout.folder / "ipv6").touch()
        (layout.folder / "number").write_text(f"{layout.number}\n")
        return layout


def everyone() -> Iterator[Layout]:
    """All clusters of this machine."""
    folder = clusters()
    for path in sorted(folder.iterdir()) if folder.exists() else []:
        layout = known(path.name)
        if layout:
            yield layout


@contextmanager
def locked(name: str) -> Iterator[None]:
    """One `up` or `down` of a cluster at a time. It ends with the process that holds it, and leaves no file."""
    printed = False
    with socket.socket(socket.AF_UNIX) as held:
        while True:
            try:
                held.bind(f"\0octavo-cluster/{name}")  # a name that one process of the machine can have, unix(7)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            if not printed:
                print(f"· another make cluster or cluster-down is at work on {name}: waiting for it", flush=True)
            printed = True
            time.sleep(0.2)
        yield
