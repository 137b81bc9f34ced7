"""The network between host and nodes: one bridge inside the first node, a veth pair to the host, one to each other node.

No default route and no address translation: from a pod one reaches nodes, pods, Services and the host's end of the
veth pair, and nothing else. All of it lies in the nodes' network namespaces and goes with them, the host's end too.
"""

from __future__ import annotations

import subprocess

from e2e.cluster.layout import Layout, Node
from e2e.cluster.sandboxes import Sandbox, SandboxError

BRIDGE = "cluster"


def connect_first(layout: Layout, sandbox: Sandbox) -> None:
    """Join the first node and the host."""
    node = layout.node(1)
    pid = sandbox.start()
    _ip(f"link add {layout.link} type veth peer name host netns {pid}")
    _ip(_address(layout, layout.host, layout.link))
    _ip(f"link set {layout.link} up")
    sandbox.run("ip", "link", "add", BRIDGE, "type", "bridge")
    sandbox.run("ip", "link", "set", "host", "master", BRIDGE, "up")
    _configure(layout, node, sandbox, BRIDGE)
    _ip(f"route add {node.pods} via {node.address}")


def connect_next(layout: Layout, node: Node, sandbox: Sandbox, first: Sandbox) -> None:
    """Join another node to the first one's bridge, and give both a route to the other's pods."""
    _ip(f"link add {node.name} netns {first.start()} type veth peer name eth0 netns {sandbox.start()}")
    first.run("ip", "link", "set", node.name, "master", BRIDGE, "up")
    _configure(layout, node, sandbox, "eth0")
    one = layout.node(1)
    first.run("ip", "route", "add", node.pods, "via", node.address)
    sandbox.run("ip", "route", "add", one.pods, "via", one.address)
    _ip(f"route add {node.pods} via {node.address}")


def _configure(layout: Layout, node: Node, sandbox: Sandbox, device: str) -> None:
    for words in (
        "link set lo up",
        _address(layout, node.address, device),
        f"link set {device} up",
        # kube-proxy translates the addresses of Services, but a process on the node needs a route to try.
        f"route add {layout.services} dev {device}",
    ):
        sandbox.run("ip", *words.split())
    # Pods have a veth each and are routed, so frames on the bridge need not pass through iptables.
    forward, filtered = ("ipv6/conf/all/forwarding", "ip6tables") if layout.ipv6 else ("ipv4/ip_forward", "iptables")
    sandbox.run("sh", "-c", f"echo 1 > /proc/sys/net/{forward}")
    sandbox.run("sh", "-c", f"cd /proc/sys/net/bridge 2>/dev/null && echo 0 > bridge-nf-call-{filtered} || true")


def _address(layout: Layout, address: str, device: str) -> str:
    # Without duplicate address detection, during which a daemon could not listen there yet.
    return f"address add {address}/{layout.network_bits} dev {device}{' nodad' if layout.ipv6 else ''}"


def _ip(words: str) -> None:
    done = subprocess.run(["ip", *words.split()], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SandboxError(f"ip {words}: {done.stderr.strip()}")
