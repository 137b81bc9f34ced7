"""A cluster of our own on this machine."""

from __future__ import annotations

import time
from pathlib import Path

from octavo_testing.kubernetes_binaries import build

from e2e.cluster import control_plane, host_services, nodes
from e2e.cluster.credentials import kubeconfig_of
from e2e.cluster.handles import Cluster
from e2e.cluster.layout import Layout
from e2e.cluster.registry import Registry
from e2e.cluster.sandboxes import MARK, Sandbox, SandboxError


class OwnCluster(Cluster):
    """A cluster of the suite's own: also gives its audit log, its daemons and its nodes' namespaces to tests."""

    is_ours = True

    def __init__(self, layout: Layout) -> None:
        super().__init__(kubeconfig_of(layout, "admin"), layout.urls)
        self.layout = layout
        self._environment[MARK] = f"{layout.name}/host/kubectl"  # one that waits doesn't outlive the cluster
        self.audit_log = layout.folder / "logs" / "audit.log"

    def tool(self, name: str) -> Path:
        path: Path = build.binary(name)
        return path

    def push_image(self, archive: Path) -> list[str]:
        names = Registry(self.urls.registry).push_archive(archive)
        for node in self.layout.nodes:
            nodes.forget_images(self.sandbox(node.name), names)
        return names

    def publish_model(self, name: str, folder: Path, token: str | None = None) -> None:
        host_services.publish_model(self.layout.folder, name, folder, token)

    def publish_package(self, wheel: Path) -> None:
        host_services.publish_package(self.layout.folder, wheel)

    def sandbox(self, node: str) -> Sandbox:
        """The node's namespaces: `.run("ip", "route")` runs a command there."""
        return Sandbox(self.layout.name, node)

    def stop(self, node: str, command: str) -> None:
        """Kill one of a node's daemons, or of the control plane on the first node. It stays down until `start`."""
        process = self.sandbox(node).daemon(command)
        if not process:
            raise SandboxError(f"{command} does not run on {node}")
        process.kill()
        while not self.sandbox(node).has_ended(command):
            time.sleep(0.05)

    def start(self, node: str, command: str) -> None:
        """Start what `stop` killed."""
        if command in control_plane.COMMANDS:
            control_plane.start(self.layout, self.sandbox(node), command)
        else:
            (place,) = (place for place in self.layout.nodes if place.name == node)
            nodes.start(self.layout, place, self.sandbox(node), command)
