"""The requirements of a machine on which a node runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from e2e.cluster.cgroups import MOUNT, hierarchies
from e2e.cluster.images import BUSYBOX_BINARY
from e2e.cluster.nodes import CNI_FOLDERS, cni_binaries

PACKAGES = {  # command -> Debian's package, and what it is needed for
    "containerd": ("containerd", "runs the nodes' containers"),
    "runc": ("runc", "starts the nodes' containers"),
    "iptables": ("iptables", "is how kube-proxy makes Services"),
    "conntrack": ("conntrack", "is how kube-proxy forgets dead connections"),
    "ip": ("iproute2", "makes the nodes' networks"),
    "nsenter": ("util-linux", "enters the nodes' namespaces"),
    "mount": ("mount", "makes the nodes' folders"),
}
ELF_INTERPRETER = 3  # PT_INTERP


def missing() -> list[str]:
    """One sentence for each thing that keeps a node from running here; none: it can."""
    if sys.platform != "linux":
        return [f"a node needs Linux, and this is {sys.platform}."]
    sentences = [] if os.geteuid() == 0 else ["a node needs root: namespaces, mounts and cgroups are made for it."]
    lacking = _lacking()
    sentences += lacking.values()
    if not hierarchies():
        sentences.append(f"no cgroups are mounted at {MOUNT}; the kubelet needs them.")
    if not sentences:
        refused = _refused()
        sentences += [f"namespaces can't be made here, as unshare says: {refused}."] if refused else []
    if lacking:
        sentences.append(f"On Debian and Ubuntu: apt-get install -y --no-install-recommends {' '.join(lacking)}")
    return sentences


def missing_packages() -> list[str]:
    """Debian's packages with what is not here, for those who want them installed unasked."""
    return list(_lacking())


def _lacking() -> dict[str, str]:
    """Package -> a sentence on what of it is not here."""
    lacking = {
        package: f"{command} is not installed; it {purpose}."
        for command, (package, purpose) in PACKAGES.items()
        if not shutil.which(command)
    }
    if not cni_binaries():
        places = " or ".join(map(str, CNI_FOLDERS))
        lacking["containernetworking-plugins"] = f"no program ptp is in {places}; it gives pods their addresses."
    if not _is_static(BUSYBOX_BINARY):
        words = f"{BUSYBOX_BINARY} is not a static program; pods' sandboxes and volumes are made with it."
        lacking["busybox-static"] = words
    return lacking


def _refused() -> str:
    """The error of making namespaces, mounts and a network device; empty if it succeeds."""
    script = "mount -t tmpfs tmpfs /run && ip link add t0 type veth peer name t1 && ip link add t2 type bridge"
    own = ["--net", "--pid", "--fork", "--mount", "--mount-proc", "--uts", "--propagation", "slave"]
    done = subprocess.run(["unshare", *own, "sh", "-c", script], capture_output=True, text=True, check=False)
    return done.stderr.strip().replace("\n", "; ") if done.returncode else ""


def _is_static(path: Path) -> bool:
    """True if it is an ELF program that names no dynamic loader (elf(5): e_phoff, e_phentsize, e_phnum; p_type)."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    if content[:4] != b"\x7fELF" or content[4] != 2:  # 64 bits
        return False
    at, size, count = (int.from_bytes(content[a:b], "little") for a, b in ((32, 40), (54, 56), (56, 58)))
    kinds = [int.from_bytes(content[at + i * size :][:4], "little") for i in range(count)]
    return ELF_INTERPRETER not in kinds
