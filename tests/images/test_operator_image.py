"""The operator's image as a container."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from containers import Container
from images.archives import layers

ROOT = Path(__file__).parents[2]

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: here, user: me, namespace: octavo-system}}]
clusters: [{name: here, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: me, user: {token: abc}}]
"""


class Operator(Container):
    health = ("octavo-health", "--metrics-port", "8080", "/livez")


def test_it_prints_its_options(operator, tmp_path):
    with Operator(operator, tmp_path, ["--help"]) as container:
        assert container.wait(60) == 0
        assert "--all-namespaces" in container.output


def test_without_a_cluster_it_ends_in_one_sentence(operator, tmp_path):
    with Operator(operator, tmp_path, ["--all-namespaces", "--log-format", "text"]) as container:
        assert container.wait(60) == 2
        assert "set KUBECONFIG" in container.output
        assert "Traceback" not in container.output


def test_it_waits_for_an_api_server_and_ends_in_order_at_sigterm(operator, tmp_path):
    """The container runs it as PID 1, with a read-only root: kubeconfig read, health served, signal taken, exit status
    0.
    """
    (tmp_path / "kube").mkdir()
    (tmp_path / "kube/config").write_text(KUBECONFIG)
    mounts = {"/kube": tmp_path / "kube"}
    with Operator(operator, tmp_path / "run", ["-A"], mounts, KUBECONFIG="/kube/config") as container:
        container.wait_until_healthy(60)
        container.signal("TERM")
        assert container.wait(30) == 0, container.output


def test_sigterm_is_heeded_before_anything_is_loaded(operator, tmp_path):
    (tmp_path / "kube").mkdir()
    (tmp_path / "kube/config").write_text(KUBECONFIG)
    mounts = {"/kube": tmp_path / "kube"}
    with Operator(operator, tmp_path / "run", ["-A"], mounts, KUBECONFIG="/kube/config") as container:
        container.wait_until_running()
        container.end_once_it_listens_to_sigterm()
        assert container.wait(10) == 143, container.output


def test_it_serves_the_metrics_api(operator, tmp_path):
    """The second container of the operator's pod: the same image, another module."""
    module = ["python3", "-m", "octavo_operator.metrics_api"]
    with Operator(operator, tmp_path, ["--help"], entrypoint=module) as container:
        assert container.wait(60) == 0
        assert "--secure-port" in container.output


@pytest.mark.parametrize("name", ["operator", "engine"])
def test_the_build_hosts_package_index_is_in_no_file(name, request):
    """Neither its configuration nor the certificates that it was reached with."""
    image = request.getfixturevalue(name)
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], stdout=subprocess.PIPE, text=True, check=True
    )
    assert not (image.root / "etc/pip.conf").exists() or not (image.root / "etc/pip.conf").read_text()
    hosts = {word for word in listed.stdout.replace("'", " ").split() if word.startswith(("http://", "https://"))}
    for host in hosts:
        found = subprocess.run(["grep", "-rlF", host, str(image.root)], stdout=subprocess.PIPE, text=True, check=False)
        assert not found.stdout


@pytest.mark.parametrize(("name", "megabytes"), [("operator", 150), ("engine", 250)])
def test_an_image_is_as_small_as_promised(name, megabytes, request):
    size = sum(layer.size for layer in layers(request.getfixturevalue(name).archive)) / 1e6
    assert size <= megabytes
