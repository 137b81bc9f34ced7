"""Keys, certificates and kubeconfigs of a cluster, made once. The authority's own key is never written."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from octavo_testing.certificates import Authority, Issued, Key

from e2e.cluster.layout import DOMAIN, MOST_NODES, Layout

SERVICE_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{DOMAIN}")
USERS = {  # who has a kubeconfig -> user name and groups, which RBAC's own rules know
    "admin": ("octavo-admin", ("system:masters",)),
    "kube-controller-manager": ("system:kube-controller-manager", ()),
    "kube-scheduler": ("system:kube-scheduler", ()),
    "kube-proxy": ("system:kube-proxy", ()),
}
# Whom the API server is to kubelets, and to the servers of APIServices.
CLIENTS = {
    "kubelet-client": ("kube-apiserver-kubelet-client", ("system:masters",)),
    "front-proxy": ("front-proxy-client", ()),
}


def write_credentials(layout: Layout) -> None:
    """Fill `credentials_folder`; for every node that there may ever be, since the authority is gone afterwards."""
    folder = credentials_folder(layout)
    folder.mkdir(mode=0o700, exist_ok=True)
    authority = Authority(f"octavo-cluster-{layout.name}")
    # Another authority for the front proxy: any client that it signs may say on whose behalf it asks.
    front_proxy = Authority("front-proxy")
    _write(folder / "ca.crt", authority.certificate)
    _write(folder / "front-proxy-ca.crt", front_proxy.certificate)
    _write(folder / "service-accounts.key", Key().pem)
    addresses = [layout.node(1).address, layout.api_service, "127.0.0.1", "localhost"]
    _write_pair(folder / "apiserver", authority.issue("kube-apiserver", [*addresses, *SERVICE_NAMES]))
    for file, (name, groups) in CLIENTS.items():
        issuer = front_proxy if file == "front-proxy" else authority
        _write_pair(folder / file, issuer.issue(name, groups=groups))
    for user, (name, groups) in USERS.items():
        _write_kubeconfig(layout, user, authority, authority.issue(name, groups=groups))
    for node in map(layout.node, range(1, MOST_NODES + 1)):
        _write_pair(folder / node.name, authority.issue(node.name, [node.name, node.address]))
        kubelet = authority.issue(f"system:node:{node.name}", groups=["system:nodes"])
        _write_kubeconfig(layout, node.name, authority, kubelet)


def credentials_folder(layout: Layout) -> Path:
    return layout.folder / "credentials"


def kubeconfig_of(layout: Layout, user: str) -> Path:
    """The kubeconfig of one of USERS, or of a node's kubelet."""
    return credentials_folder(layout) / f"{user}.kubeconfig"


def _write_kubeconfig(layout: Layout, user: str, authority: Authority, issued: Issued) -> None:
    context = f"octavo-cluster-{layout.name}"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": context,
        "contexts": [{"name": context, "context": {"cluster": context, "user": user}}],
        "clusters": [
            {
                "name": context,
                "cluster": {"server": layout.server, "certificate-authority-data": _base64(authority.certificate)},
            }
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": _base64(issued.certificate),
                    "client-key-data": _base64(issued.key),
                },
            }
        ],
    }
    _write(kubeconfig_of(layout, user), json.dumps(config, indent=1))


def _write_pair(stem: Path, issued: Issued) -> None:
    _write(stem.with_suffix(".crt"), issued.certificate)
    _write(stem.with_suffix(".key"), issued.key)


def _write(path: Path, text: str) -> None:
    path.touch(0o600)
    path.write_text(text)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
