"""A node: containerd, kubelet and kube-proxy, with folders and cgroups of their own.

Its processes see other folders at /run, /var/lib and /var/log than the machine does, so that neither the machine's own
containerd nor anything that the kubelet keeps at fixed paths can meet them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from octavo_testing.kubernetes_binaries import build

from e2e.cluster import cgroups
from e2e.cluster.control_plane import last_lines, log_of
from e2e.cluster.credentials import credentials_folder, kubeconfig_of
from e2e.cluster.images import PAUSE
from e2e.cluster.layout import DOMAIN, Layout, Node
from e2e.cluster.registry import DOCKER_PREFIX
from e2e.cluster.sandboxes import Sandbox, SandboxError

SOCKET = "/run/containerd/containerd.sock"
CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni"))  # as distributions have it
LISTEN_SECONDS = 30.0
DAEMONS = ("containerd", "kubelet", "kube-proxy")
# The kubelet would set these for the whole machine. It finds them as it likes them in files that hide the real ones.
KERNEL_SETTINGS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}


def cni_binaries() -> Path | None:
    """The folder with the plugins that nodes use."""
    return next((folder for folder in CNI_FOLDERS if (folder / "ptp").exists()), None)


def prepare_node(layout: Layout, node: Node, sandbox: Sandbox) -> None:
    """Give the sandbox its folders, its cgroups and the configuration of its daemons."""
    script = ["set -e", "mount --make-rshared /", "mount -t tmpfs tmpfs /run", f"hostname {node.name}"]
    for folder in ("lib", "log"):
        (node.folder / folder).mkdir(parents=True, exist_ok=True)
        script.append(f"mount --bind '{node.folder}/{folder}' /var/{folder}")
    settings = node.folder / "kernel-settings"
    for name, value in KERNEL_SETTINGS.items():
        file = settings / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")
        script.append(f"mount --bind '{file}' /proc/sys/{name}")
    sandbox.run("sh", "-c", "\n".join(script))
    cgroups.make(_cgroup(layout, node))
    (node.folder / "resolv.conf").write_text("")  # CoreDNS forwards to no other server
    mirror = node.folder / "registries" / "_default"
    mirror.mkdir(parents=True, exist_ok=True)
    # Both lines: containerd 1.6 requires a host, and without a server would turn to the internet for what it lacks.
    registry = f"http://{layout.urls.registry}"
    # An inline table: in a table's header its TOML reader takes the bracket of an IPv6 address for the end.
    (mirror / "hosts.toml").write_text(f'server = "{registry}"\n[host]\n"{registry}" = {{}}\n')
    cni = node.folder / "cni"
    cni.mkdir(exist_ok=True)
    (cni / "10-octavo.conflist").write_text(json.dumps(_cni(layout, node), indent=1))
    (node.folder / "containerd.toml").write_text(_containerd(node))
    for command, config in (("kubelet", _kubelet(layout, node)), ("kube-proxy", _kube_proxy(layout, node))):
        (node.folder / f"{command}.json").write_text(json.dumps(config, indent=1))


def forget_images(sandbox: Sandbox, names: Sequence[str]) -> None:
    """Let the next pod pull what was pushed under a tag that the node has pulled before. What runs is not touched."""
    sandbox.run("ctr", "--address", SOCKET, "-n", "k8s.io", "images", "rm", *(DOCKER_PREFIX + name for name in names))


def register(node: Node) -> dict[str, object]:
    """The Node with its pods' addresses, which the kubelet then fills in."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name},
        "spec": {"podCIDR": node.pods, "podCIDRs": [node.pods]},
    }


def ensure(layout: Layout, node: Node, sandbox: Sandbox) -> None:
    """Start those of DAEMONS that don't run. Raises SandboxError with containerd's last words if it does not listen."""
    socket = Path(f"/proc/{sandbox.start()}/root{SOCKET}")
    for command in DAEMONS:
        if not sandbox.has_ended(command):
            continue
        if command == "containerd":
            socket.unlink(missing_ok=True)
        start(layout, node, sandbox, command)
        end = time.monotonic() + LISTEN_SECONDS
        while not socket.exists():  # the kubelet does not wait for it
            if time.monotonic() > end:
                raise SandboxError(f"containerd on {node.name}:\n{last_lines(_log(layout, node, 'containerd'))}")
            time.sleep(0.05)


def require_daemons(layout: Layout, node: Node, sandbox: Sandbox) -> None:
    """Raises SandboxError with the last words of one of DAEMONS that has ended."""
    for command in DAEMONS:
        if sandbox.has_ended(command):
            raise SandboxError(f"{command} on {node.name} has ended:\n{last_lines(_log(layout, node, command))}")


def start(layout: Layout, node: Node, sandbox: Sandbox, command: str) -> None:
    """Start one of DAEMONS."""
    argv = {
        "containerd": ["containerd", f"--config={node.folder}/containerd.toml"],
        "kubelet": [
            "kubelet",
            f"--config={node.folder}/kubelet.json",
            f"--kubeconfig={kubeconfig_of(layout, node.name)}",
            f"--hostname-override={node.name}",
            f"--node-ip={node.address}",
        ],
        "kube-proxy": ["kube-proxy", f"--config={node.folder}/kube-proxy.json"],
    }[command]
    if command != "containerd":
        argv[0] = str(build.binary(command))
    sandbox.spawn(command, argv, _log(layout, node, command))


def _log(layout: Layout, node: Node, command: str) -> Path:
    return log_of(layout, f"{node.name}-{command}")


def _cgroup(layout: Layout, node: Node) -> str:
    return f"{layout.cgroup}/{node.name}"


def _containerd(node: Node) -> str:
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0

[grpc]
  address = "{SOCKET}"

[{cri}]
  sandbox_image = "{PAUSE}"
  # Where root lacks CAP_SYS_RESOURCE no score can be lowered, and every pod would fail to start.
  restrict_oom_score_adj = true
  # Its profile would be loaded into the machine's kernel and stay there.
  disable_apparmor = true

[{cri}.cni]
  bin_dir = "{cni_binaries()}"
  conf_dir = "{node.folder}/cni"

[{cri}.registry]
  config_path = "{node.folder}/registries"
"""


def _cni(layout: Layout, node: Node) -> dict[str, object]:
    # ptp and not bridge: what is routed passes the node's iptables, also from pod to pod through a Service.
    ptp = {
        "type": "ptp",
        "ipMasq": False,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": node.pods}]],
            "routes": [{"dst": "::/0" if layout.ipv6 else "0.0.0.0/0"}],
        },
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": "octavo", "plugins": [ptp, portmap]}


def _kubelet(layout: Layout, node: Node) -> dict[str, object]:
    keys = credentials_folder(layout)
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": layout.any_address,
        "authentication": {"anonymous": {"enabled": False}, "x509": {"clientCAFile": f"{keys}/ca.crt"}},
        "tlsCertFile": f"{keys}/{node.name}.crt",
        "tlsPrivateKeyFile": f"{keys}/{node.name}.key",
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{_cgroup(layout, node)}",
        "clusterDNS": [layout.dns_service],
        "clusterDomain": DOMAIN,
        "resolvConf": f"{node.folder}/resolv.conf",
        "protectKernelDefaults": True,  # it reads KERNEL_SETTINGS and must not write them
        "failSwapOn": False,
        "failCgroupV1": False,
        # The machine's disk and memory are not this cluster's alone.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "serializeImagePulls": False,
    }


def _kube_proxy(layout: Layout, node: Node) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "bindAddress": layout.any_address,
        "clientConnection": {"kubeconfig": str(kubeconfig_of(layout, "kube-proxy"))},
        "hostnameOverride": node.name,
        "mode": "iptables",
        "clusterCIDR": layout.pods,
        "conntrack": {"maxPerCore": 0, "min": 0},  # a setting of the whole machine
    }
