"""The metrics API as a process of its own behind a real aggregation layer, as its ServiceAccount, RBAC on.

The API server reaches it as it would a pod: by the Service that config/ installs, and an EndpointSlice, which is
written here since no pod is there to be found. Endpoints can't be on the loopback, so it listens on all addresses.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_engines import FakeEngine
from octavo_testing.api_client import until
from octavo_testing.child_processes import free_port
from octavo_testing.fake_kubelet import State
from octavo_testing.operator_runs import ACCOUNT, ROOT, Operator

NAMESPACE = "octavo-system"
SERVICE = "octavo-metrics-api"
APISERVICES = ("apiregistration.k8s.io/v1", "APIService")
NAMES = ("v1beta2.custom.metrics.k8s.io", "v1beta1.custom.metrics.k8s.io")
SLICE = ("discovery.k8s.io/v1", "EndpointSlice")
BASE = "/apis/custom.metrics.k8s.io/v1beta2"
PERIOD_S = 0.5


class MetricsApi:
    """One replica."""

    def __init__(self, kubeconfig: Path, log: Path, *arguments: str) -> None:
        self.log = log
        self.port = free_port()
        command = [sys.executable, "-W", "error::RuntimeWarning", "-m", "octavo_operator.metrics_api"]
        command += ["--secure-port", str(self.port), "--operator-namespace", NAMESPACE, "--log-format", "json"]
        command += ["--scrape-period", str(PERIOD_S), *arguments]
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=file, env={**os.environ, "KUBECONFIG": str(kubeconfig)}
            )

    def ask(
        self, path: str, headers: Mapping[str, str] | None = None, client: tuple[Path, Path] | None = None
    ) -> tuple[int, str]:
        """Status and body, asked directly and not by way of the API server; 0 where the connection is refused."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if client is not None:
            context.load_cert_chain(*client)
        request = urllib.request.Request(f"https://127.0.0.1:{self.port}{path}", headers=dict(headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=10, context=context) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def wait_ready(self, seconds: float = 60) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return self.ask("/readyz")[0] == 200

        until(ready, seconds, "the metrics API is ready")

    def certificate(self) -> str:
        """The certificate that it presents now, PEM."""
        return ssl.get_server_certificate(("127.0.0.1", self.port), timeout=10)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def host_address() -> str:
    """An address of this machine that is not on the loopback. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address besides the loopback, and an endpoint can't be there")
        return probe.getsockname()[0]


def set_endpoint(plane: Any, port: int, *, ready: bool = True, pod: str = "") -> None:
    """Point the Service at an endpoint. `pod` is named as a pod's host name would be, this machine's by default."""
    plane.api.apply(
        {
            "apiVersion": SLICE[0],
            "kind": SLICE[1],
            "metadata": {
                "name": f"{SERVICE}-tests",
                "namespace": NAMESPACE,
                "labels": {"kubernetes.io/service-name": SERVICE, "endpointslice.kubernetes.io/managed-by": "tests"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
            "endpoints": [
                {
                    "addresses": [host_address()],
                    "conditions": {"ready": ready},
                    "targetRef": {"kind": "Pod", "name": pod or socket.gethostname(), "namespace": NAMESPACE},
                }
            ],
        }
    )


def install(plane: Any) -> None:
    """The definition, the rights and the Services of config/."""
    parts = ("crds", "config/rbac", "config/operator/services.yaml")
    plane.kubectl("apply", *(word for part in parts for word in ("-f", str(ROOT / part))))
    plane.wait_established("llmservices.octavo.dev")


@contextmanager
def serving(plane: Any, folder: Path) -> Iterator[tuple[MetricsApi, Operator]]:
    """A leader and a replica of the metrics API, announced and available; both are gone afterwards, and so is what
    they announced."""
    kubeconfig = plane.kubeconfig(ACCOUNT)
    operator = Operator(kubeconfig, folder / "operator.log", "--metrics-api", "Auto")
    server = MetricsApi(kubeconfig, folder / "metrics-api.log")
    try:
        operator.wait_ready()
        server.wait_ready()
        set_endpoint(plane, server.port)  # as a pod's endpoint is, once it is ready
        until(lambda: all(available(plane, name) for name in NAMES), 60, "the APIServices are available")
        yield server, operator
    finally:
        for each in (server, operator):
            if each.process.poll() is None:
                each.kill()
        plane.api.delete(*SLICE, f"{SERVICE}-tests", NAMESPACE)
        for name in NAMES:
            plane.api.delete(*APISERVICES, name)


def available(plane: Any, name: str) -> bool:
    found = plane.api.find(*APISERVICES, name)
    conditions = (found or {}).get("status", {}).get("conditions", ())
    return any(each["type"] == "Available" and each["status"] == "True" for each in conditions)


def get(plane: Any, path: str, user: str = "admin", **query: str) -> Any:
    """Get a path from the API server, which asks the metrics API."""
    return plane.api_as(user).request("GET", BASE + path, **query)


def values(plane: Any, namespace: str, metric: str, **query: str) -> dict[str, str]:
    """The metric's values by pod."""
    items = get(plane, f"/namespaces/{namespace}/pods/*/{metric}", **query)["items"]
    return {each["describedObject"]["name"]: each["value"] for each in items}


def deployment(name: str, replicas: int, port: int) -> dict[str, Any]:
    """A Deployment of pods that look like an LLMService's."""
    labels = {"octavo.dev/service": name, "app.kubernetes.io/component": "engine"}
    container = {
        "name": "engine",
        "image": "engine",
        "ports": [{"name": "http", "containerPort": port}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [container], "securityContext": security},
            },
        },
    }


def be_engine(kubelet: Any, pod: dict[str, Any], engine: FakeEngine, *, ready: bool = True) -> str:
    """Let a pod be at the engine's address; its name."""
    where = {"podIP": engine.address, "podIPs": [{"ip": engine.address}]}
    kubelet.set_pod(pod, State(ready=ready, extra=where))
    return pod["metadata"]["name"]


def said(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
