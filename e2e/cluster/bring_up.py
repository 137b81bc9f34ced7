"""The order in which a cluster comes up."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from octavo_testing.kubernetes_binaries import build

from e2e.cluster import addons, control_plane, host_services, nodes
from e2e.cluster.credentials import kubeconfig_of, write_credentials
from e2e.cluster.handles import Cluster, MissingError
from e2e.cluster.images import cluster_images
from e2e.cluster.layout import Layout, Node, claim, clusters, known, locked
from e2e.cluster.network import connect_first, connect_next
from e2e.cluster.own import OwnCluster
from e2e.cluster.registry import Registry
from e2e.cluster.requirements import missing
from e2e.cluster.sandboxes import Sandbox, SandboxError
from e2e.cluster.tear_down import tear_down

BINARIES = (
    *control_plane.COMMANDS,
    "kubectl",
    "kubelet",
    "kube-proxy",
    "coredns",
    "registry",
    "local-path-provisioner",
    "helm",
)
READY_SECONDS = 180
READY = "{.status.conditions[?(@.type=='Ready')].status}"


def bring_up(name: str, count: int, *, ipv6: bool = False) -> OwnCluster:
    """The cluster of this name with at least `count` nodes: the one that runs, or a new one, with `ipv6` of that alone.

    Whatever an earlier `up` that was broken off has left is removed first. Raises MissingError where no node can run,
    BuildError and SandboxError with the last words of what failed.
    """
    lacking = missing()
    if lacking:
        raise MissingError(*lacking)
    build.ensure(BINARIES)
    with locked(name):
        return _bring_up(name, count, ipv6)


def _bring_up(name: str, count: int, ipv6: bool) -> OwnCluster:
    layout = known(name)
    if (clusters() / name).exists() and not (layout and _is_whole(layout)):
        with step("removing what an earlier one has left"):
            tear_down(name)
        layout = None
    if layout is None:
        layout = claim(name, ipv6=ipv6)
        _create(layout)
    cluster = OwnCluster(layout)
    _restart(layout, cluster)
    for index in range(len(layout.nodes) + 1, count + 1):
        _join(layout, layout.node(index), cluster)
    _hand_out(layout)
    return cluster


def _is_whole(layout: Layout) -> bool:
    """True if it came up whole, and the machine has not been restarted since."""
    names = ["host", *(node.name for node in layout.nodes)]
    return layout.complete.exists() and all(Sandbox(layout.name, name).init() for name in names)


def _restart(layout: Layout, cluster: Cluster) -> None:
    """Start what has ended, or was ended by a test: nothing that serves is touched."""
    host, first = Sandbox(layout.name, "host", network=False), Sandbox(layout.name, layout.node(1).name)
    host_services.ensure(layout, host)
    control_plane.ensure(layout, first)
    for node in layout.nodes:
        nodes.ensure(layout, node, Sandbox(layout.name, node.name))
        _wait_for_node(layout, node, cluster)


def _create(layout: Layout) -> None:
    first, host = Sandbox(layout.name, layout.node(1).name), Sandbox(layout.name, "host", network=False)
    node = layout.node(1)
    node.folder.mkdir()
    with step("keys, namespaces and network"):
        write_credentials(layout)
        connect_first(layout, first)
        host.start()
    with step("etcd, API server, controller manager, scheduler"):
        control_plane.ensure(layout, first)
    cluster = OwnCluster(layout)
    _start_node(layout, node, first, cluster)
    with step("registry, package index, hub stand-in"):
        host_services.publish_defaults(layout.folder)
        host_services.ensure(layout, host)
        registry = Registry(layout.urls.registry)
        for name, image in cluster_images().items():
            registry.push(name, image)
    with step("node-1, CoreDNS, storage"):
        manifests = {"apiVersion": "v1", "kind": "List", "items": addons.manifests(layout.dns_service)}
        cluster.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(manifests))
        _wait_for_node(layout, node, cluster)
        _wait_for_addons(cluster)
    layout.complete.touch()


def _join(layout: Layout, node: Node, cluster: Cluster) -> None:
    with step(node.name):
        layout.complete.unlink(missing_ok=True)
        node.folder.mkdir()
        sandbox = Sandbox(layout.name, node.name)
        connect_next(layout, node, sandbox, Sandbox(layout.name, layout.node(1).name))
        _start_node(layout, node, sandbox, cluster)
        _wait_for_node(layout, node, cluster)
        layout.complete.touch()


def _start_node(layout: Layout, node: Node, sandbox: Sandbox, cluster: Cluster) -> None:
    nodes.prepare_node(layout, node, sandbox)
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(nodes.register(node)))
    nodes.ensure(layout, node, sandbox)


def _wait_for_node(layout: Layout, node: Node, cluster: Cluster) -> None:
    end = time.monotonic() + READY_SECONDS
    while "True" not in cluster.kubectl("get", "node", node.name, "-o", f"jsonpath={READY}"):
        nodes.require_daemons(layout, node, Sandbox(layout.name, node.name))
        if time.monotonic() > end:
            raise SandboxError(f"{node.name} is not ready:\n{_troubles(cluster)}")
        time.sleep(0.3)


def _wait_for_addons(cluster: Cluster) -> None:
    for namespace, deployment in addons.DEPLOYMENTS:
        wait = ("wait", f"--timeout={READY_SECONDS}s", "--for=condition=Available", f"deployment/{deployment}")
        try:
            cluster.kubectl(*wait, f"--namespace={namespace}", seconds=READY_SECONDS + 30)
        except AssertionError as error:
            raise SandboxError(f"{error}\n{_troubles(cluster)}") from error


def _troubles(cluster: Cluster) -> str:
    """Nodes, pods and warnings, as a person would ask for them."""
    events = ("get", "events", "-A", "--field-selector=type=Warning")
    return cluster.kubectl("get", "nodes,pods", "-A", "-o", "wide", check=False) + cluster.kubectl(*events, check=False)


def _hand_out(layout: Layout) -> None:
    """Write the kubeconfig into the checkout, and beside it the commands that go with it."""
    folder = layout.hand_out()
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    (folder / "kubeconfig").touch(0o600)
    (folder / "kubeconfig").write_text(kubeconfig_of(layout, "admin").read_text())
    for name in ("kubectl", "helm"):
        link = folder / "bin" / name
        link.unlink(missing_ok=True)
        link.symlink_to(build.binary(name))


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say what is being done, and how long it took."""
    started = time.monotonic()
    print(f"· {what} …", end="", flush=True)
    try:
        yield
    except BaseException:
        print(flush=True)
        raise
    print(f" {time.monotonic() - started:.1f} s", flush=True)
