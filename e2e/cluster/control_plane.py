"""etcd, API server, controller manager and scheduler, as processes of the first node."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from octavo_testing.api_client import ApiClient, ApiError, Endpoint
from octavo_testing.audit_log import POLICY
from octavo_testing.kubernetes_binaries import build

from e2e.cluster.credentials import credentials_folder, kubeconfig_of
from e2e.cluster.layout import DOMAIN, Layout
from e2e.cluster.sandboxes import Sandbox, SandboxError

ETCD = "http://127.0.0.1:2379"
PEER = "http://127.0.0.1:2380"
COMMANDS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
READY_SECONDS = 90.0


def arguments(layout: Layout, command: str) -> list[str]:
    """The flags of one of COMMANDS."""
    return {
        "etcd": _etcd,
        "kube-apiserver": _api_server,
        "kube-controller-manager": _controller_manager,
        "kube-scheduler": _scheduler,
    }[command](layout)


def ensure(layout: Layout, sandbox: Sandbox) -> None:
    """Start those of COMMANDS that don't run; the API server is ready when it returns.

    Raises SandboxError with the last words of what did not start.
    """
    (credentials_folder(layout) / "audit-policy.json").write_text(json.dumps(POLICY))
    server, controllers = COMMANDS[:2], COMMANDS[2:]
    for command in server:
        if sandbox.has_ended(command):
            start(layout, sandbox, command)
    _wait_until_ready(layout, sandbox, server)
    for command in controllers:  # they end if the API server has not made their roles yet
        if sandbox.has_ended(command):
            start(layout, sandbox, command)


def start(layout: Layout, sandbox: Sandbox, command: str) -> None:
    sandbox.spawn(command, [build.binary(command), *arguments(layout, command)], log_of(layout, command))


def log_of(layout: Layout, command: str) -> Path:
    folder = layout.folder / "logs"
    folder.mkdir(exist_ok=True)
    return folder / f"{command}.log"


def last_lines(log: Path, count: int = 15) -> str:
    """The end of what a process has said."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:]) if log.exists() else "(nothing)"


def _wait_until_ready(layout: Layout, sandbox: Sandbox, commands: Sequence[str]) -> None:
    started = time.monotonic()
    while not is_ready(layout):
        waited = time.monotonic() - started
        ended = [command for command in commands if sandbox.has_ended(command)]
        if ended or waited > READY_SECONDS:
            why = f"{ended[0]} has ended" if ended else f"it has been waited for {waited:.0f} s"
            words = last_lines(log_of(layout, ended[0] if ended else "kube-apiserver"))
            raise SandboxError(f"the API server at {layout.server} is not ready, for {why}:\n{words}")
        time.sleep(0.2)


def is_ready(layout: Layout, seconds: float = 5.0) -> bool:
    """True if the API server reports itself as ready. Every client may ask this."""
    client = ApiClient(Endpoint(layout.server, str(credentials_folder(layout) / "ca.crt")))
    try:
        return bool(client.request("GET", "/readyz", timeout=seconds) == "ok")
    except (OSError, ApiError):
        return False
    finally:
        client.close()


def _etcd(layout: Layout) -> list[str]:
    return [
        f"--data-dir={layout.folder}/etcd",
        f"--listen-client-urls={ETCD}",
        f"--advertise-client-urls={ETCD}",
        f"--listen-peer-urls={PEER}",
        f"--initial-advertise-peer-urls={PEER}",
        f"--initial-cluster=default={PEER}",
        "--unsafe-no-fsync",  # a power cut may take this cluster
        "--log-level=warn",
    ]


def _api_server(layout: Layout) -> list[str]:
    keys = credentials_folder(layout)
    return [
        f"--etcd-servers={ETCD}",
        f"--advertise-address={layout.node(1).address}",
        f"--bind-address={layout.any_address}",
        "--secure-port=6443",
        f"--tls-cert-file={keys}/apiserver.crt",
        f"--tls-private-key-file={keys}/apiserver.key",
        f"--client-ca-file={keys}/ca.crt",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction,PodSecurity",  # with the default ones
        f"--service-cluster-ip-range={layout.services}",
        f"--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}",
        f"--service-account-key-file={keys}/service-accounts.key",
        f"--service-account-signing-key-file={keys}/service-accounts.key",
        # logs, exec and port-forward
        "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-certificate-authority={keys}/ca.crt",
        f"--kubelet-client-certificate={keys}/kubelet-client.crt",
        f"--kubelet-client-key={keys}/kubelet-client.key",
        # APIServices, as custom.metrics.k8s.io
        "--enable-aggregator-routing",
        f"--proxy-client-cert-file={keys}/front-proxy.crt",
        f"--proxy-client-key-file={keys}/front-proxy.key",
        f"--requestheader-client-ca-file={keys}/front-proxy-ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--audit-policy-file={keys}/audit-policy.json",
        f"--audit-log-path={layout.folder}/logs/audit.log",
        "--audit-log-mode=blocking",
        "--audit-log-maxsize=500",  # MB
        "--audit-log-maxbackup=1",
        "--profiling=false",
    ]


def _controller_manager(layout: Layout) -> list[str]:
    keys = credentials_folder(layout)
    return [
        *_client_of(layout, "kube-controller-manager"),
        f"--root-ca-file={keys}/ca.crt",
        f"--service-account-private-key-file={keys}/service-accounts.key",
        "--use-service-account-credentials",
        "--allocate-node-cidrs=false",  # nodes.py gives each node its half
    ]


def _scheduler(layout: Layout) -> list[str]:
    return _client_of(layout, "kube-scheduler")


def _client_of(layout: Layout, command: str) -> list[str]:
    config = kubeconfig_of(layout, command)
    return [
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--profiling=false",
    ]
