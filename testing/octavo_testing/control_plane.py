"""A Kubernetes control plane of a test's own: real etcd, API server, controller manager and scheduler on loopback.

Ready in a few seconds without root, gone with the process that started it. A test takes the `control_plane` fixture
(one a session), `namespace` (a fresh one, Pod Security `restricted`) and, for pods that run, `kubelet`:

    def test_it(control_plane, namespace, kubelet):
        control_plane.kubectl("apply", "-n", namespace, "-f", "x.yaml")         # text; AssertionError with its words
        api = control_plane.api                                                 # ApiClient as admin: plain dicts
        api.apply({...}); api.get("apps/v1", "Deployment", "d", namespace)      # create, replace, patch, delete, list
        with api.watching("v1", "Pod", namespace) as events: ...
        until(lambda: api.find("v1", "Service", "s", namespace))                # api_client.until
        control_plane.client()                                                  # kubernetes.dynamic.DynamicClient

Users: "admin" (system:masters), "nobody" (no rights), "NAMESPACE/NAME" (a ServiceAccount, by TokenRequest):
    control_plane.kubeconfig("octavo-system/octavo"), .api_as(user), .kubectl(..., user=user)
What was asked:   control_plane.verbs_used(user, since) -> {(group, "resource/subresource", verb)}, .denied(user),
                  .audit.mark() for `since`, .audit.asked(user, since) -> each request
Faults:           with control_plane.api_server_stopped(): ... ; .api_server_paused() ; .restart_api_server()
                  with FaultProxy(control_plane) as proxy: proxy.kubeconfig(user); proxy.fail(503, verb="list", ...)
Pods and nodes:   kubelet.add_node("n", gpus=2, product="NVIDIA-A100-SXM4-80GB"), kubelet.mark_pods_ready(namespace,
                  "app=x"), and more in fake_kubelet.py. Without a kubelet no pod changes by itself.
With $KUBECONFIG set, `control_plane` is a `UserCluster`: the same but for audit, faults and nodes, which skip.
"""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from octavo_testing.api_client import ApiClient, ApiError, Endpoint, until
from octavo_testing.audit_log import POLICY, AuditLog
from octavo_testing.certificates import Authority, Key
from octavo_testing.child_processes import ChildProcess, free_port
from octavo_testing.cluster import Cluster, write_kubeconfig
from octavo_testing.kubernetes_binaries import binaries

HOSTS = ("127.0.0.1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
TOKENS = {"admin": "system:masters", "nobody": "", "controllers": "system:masters", "scheduler": "system:masters"}
CONTROLLERS = {"kube-controller-manager": "controllers", "kube-scheduler": "scheduler"}
START_SECONDS = 60.0
FEWER_COLLECTIONS = {"GOGC": "400"}  # much of an idle API server's CPU is its garbage collector's
PORT_TAKEN = "address already in use"


class ControlPlane(Cluster):
    """Four processes, their certificates and their logs in `folder`."""

    own = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.authority = Authority("octavo-tests")
        self.audit = AuditLog(folder / "audit.log")
        self._authority_file = folder / "ca.crt"
        self._processes: dict[str, ChildProcess] = {}
        self._port = 0

    @property
    def server(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Ready for pods when it returns. Raises AssertionError with the logs of what did not start."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_credentials()
        for attempt in range(3):
            try:
                self._start()
            except BaseException as error:
                self.stop()
                if isinstance(error, AssertionError) and PORT_TAKEN in str(error) and attempt < 2:
                    continue
                raise
            return

    def _start(self) -> None:
        folder, etcd_port, peer_port = binaries(), free_port(), free_port()
        self._port = free_port()
        self._processes = {
            name: ChildProcess(name, [folder / name, *arguments], self.folder / f"{name}.log", env=FEWER_COLLECTIONS)
            for name, arguments in {
                "etcd": self._etcd(etcd_port, peer_port),
                "kube-apiserver": self._api_server(etcd_port),
                "kube-controller-manager": self._controller_manager(),
                "kube-scheduler": self._scheduler(),
            }.items()
        }
        self._clients.clear()
        self._processes["etcd"].start()
        for name, user in CONTROLLERS.items():
            write_kubeconfig(self.folder / f"{name}.kubeconfig", self.endpoint(user))
        self.start_api_server()
        # A pod can be made once its namespace has a ServiceAccount, which the controller manager makes.
        self._wait(lambda: self.api.find("v1", "ServiceAccount", "default", "default") is not None)

    def stop(self) -> None:
        """End everything at once: nothing of it is kept but the logs."""
        self.close()
        for process in reversed(self._processes.values()):
            process.end(signal.SIGKILL)
        shutil.rmtree(self.folder / "etcd", ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def endpoint(self, user: str = "admin", server: str = "") -> Endpoint:
        token = self.service_account_token(*user.split("/")) if "/" in user else f"token-of-{user}"
        return Endpoint(server or self.server, str(self._authority_file), token)

    # Faults of the API server itself; those of the way to it are FaultProxy's.

    def stop_api_server(self) -> None:
        self._processes["kube-apiserver"].end(signal.SIGKILL)

    def start_api_server(self) -> None:
        """Start it (again), at the same address, and wait until it is ready.

        The controllers restart with it: their watches would wait for up to a minute before they try again.
        """
        self._processes["kube-apiserver"].start()
        self._wait(self._is_ready)
        for name in CONTROLLERS:
            self._processes[name].end(signal.SIGKILL)
            self._processes[name].start()

    def restart_api_server(self) -> None:
        self.stop_api_server()
        self.start_api_server()

    @contextmanager
    def api_server_stopped(self) -> Iterator[None]:
        """Inside, connections are refused."""
        self.stop_api_server()
        try:
            yield
        finally:
            self.start_api_server()

    @contextmanager
    def api_server_paused(self) -> Iterator[None]:
        """Inside, connections are taken and nothing is answered."""
        process = self._processes["kube-apiserver"]
        process.send(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send(signal.SIGCONT)

    # What was asked of the API server.

    def verbs_used(self, user: str, since: int = 0) -> set[tuple[str, str, str]]:
        """The verbs that a user was allowed to use and used: (API group, resource or resource/subresource, verb).

        An apply that made its object counts as `patch` and `create`: the server asks for both rights.
        """
        asked = [a for a in self.audit.asked(username(user), since) if a.resource and not a.forbidden]
        return {(a.group, a.resource, a.verb) for a in asked} | {
            (a.group, a.resource, "create") for a in asked if a.created
        }

    def denied(self, user: str, since: int = 0) -> set[tuple[str, str, str]]:
        """The requests that a user had no right to; what admission rejected (a quota, a namespace that ends) is left
        out.
        """
        return {(a.group, a.resource, a.verb) for a in self.audit.asked(username(user), since) if a.forbidden}

    def logs(self, count: int = 30) -> str:
        """The last lines of each process."""
        return "\n".join(f"--- {name}\n{process.last_lines(count)}" for name, process in self._processes.items())

    @property
    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._processes.items()}

    def _wait(self, condition: Callable[[], bool]) -> None:
        def met() -> bool:
            for name, process in self._processes.items():
                # etcd may still be at its start; one that has ended will not come.
                assert process.running or not process.log.exists(), f"{name} has ended:\n{process.last_lines()}"
            return condition()

        try:
            until(met, START_SECONDS, "the control plane is ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def _is_ready(self) -> bool:
        client = ApiClient(self.endpoint())
        try:
            return client.request("GET", "/readyz", timeout=5) == "ok"
        except (OSError, ApiError):
            return False
        finally:
            client.close()

    def _write_credentials(self) -> None:
        serving = self.authority.issue("kube-apiserver", HOSTS)
        # The aggregation layer shows this one to the servers of APIServices.
        front_proxy = self.authority.issue("front-proxy-client")
        files = {
            "ca.crt": self.authority.certificate,
            "apiserver.crt": serving.certificate,
            "apiserver.key": serving.key,
            "front-proxy.crt": front_proxy.certificate,
            "front-proxy.key": front_proxy.key,
            "service-accounts.key": Key().pem,
            "tokens.csv": "".join(f'token-of-{user},{user},{user},"{group}"\n' for user, group in TOKENS.items()),
            "audit-policy.json": json.dumps(POLICY),
        }
        for name, text in files.items():
            path = self.folder / name
            path.touch(0o600)
            path.write_text(text)

    def _etcd(self, port: int, peer_port: int) -> list[str]:
        client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
        return [
            f"--data-dir={self.folder}/etcd",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def _api_server(self, etcd_port: int) -> list[str]:
        here = self.folder
        return [
            f"--etcd-servers=http://127.0.0.1:{etcd_port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self._port}",
            "--endpoint-reconciler-type=none",  # it refuses a loopback address
            f"--tls-cert-file={here}/apiserver.crt",
            f"--tls-private-key-file={here}/apiserver.key",
            f"--client-ca-file={here}/ca.crt",
            f"--token-auth-file={here}/tokens.csv",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={here}/service-accounts.key",
            f"--service-account-signing-key-file={here}/service-accounts.key",
            "--service-cluster-ip-range=10.96.0.0/16",
            # With the default ones; the second keeps a test's pods on its own nodes.
            "--enable-admission-plugins=PodSecurity,PodNodeSelector",
            "--enable-aggregator-routing",
            f"--proxy-client-cert-file={here}/front-proxy.crt",
            f"--proxy-client-key-file={here}/front-proxy.key",
            f"--requestheader-client-ca-file={here}/ca.crt",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-username-headers=X-Remote-User",
            f"--audit-policy-file={here}/audit-policy.json",
            f"--audit-log-path={self.audit.path}",
            "--audit-log-mode=blocking",
            "--profiling=false",
        ]

    def _controller_manager(self) -> list[str]:
        return [
            f"--kubeconfig={self.folder}/kube-controller-manager.kubeconfig",
            f"--root-ca-file={self.folder}/ca.crt",
            f"--service-account-private-key-file={self.folder}/service-accounts.key",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=500",  # the default of 20 is a queue when tests make and remove namespaces
            "--kube-api-burst=1000",
            "--node-monitor-period=500ms",  # takes the not-ready taint off a new node
            "--node-monitor-grace-period=24h",  # the pretended kubelet sends no heartbeats
            "--horizontal-pod-autoscaler-sync-period=1s",
            "--horizontal-pod-autoscaler-downscale-stabilization=5s",
            "--horizontal-pod-autoscaler-initial-readiness-delay=1s",
            "--horizontal-pod-autoscaler-cpu-initialization-period=1s",
        ]

    def _scheduler(self) -> list[str]:
        return [
            f"--kubeconfig={self.folder}/kube-scheduler.kubeconfig",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        ]


def username(user: str) -> str:
    """A user's name as the API server writes it."""
    return "system:serviceaccount:{}:{}".format(*user.split("/")) if "/" in user else user


def main() -> None:
    """Run a control plane until interrupted: PYTHONPATH=testing python -m octavo_testing.control_plane"""
    import tempfile

    for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts what it puts in the background deaf to the first
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="octavo-control-plane-") as folder:
        started = time.monotonic()
        with ControlPlane(Path(folder)) as plane:
            print(f"ready in {time.monotonic() - started:.1f} s: export KUBECONFIG={plane.kubeconfig()}")
            print(f"kubectl is {binaries() / 'kubectl'}; Ctrl-C ends it all")
            try:
                signal.pause()
            except KeyboardInterrupt:
                print()


if __name__ == "__main__":
    main()
