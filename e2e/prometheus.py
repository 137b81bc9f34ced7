"""A real Prometheus on this machine, which scrapes a cluster's pods through the API server.

Its own service discovery finds them, and labels them as a ServiceMonitor would: namespace, pod, service.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e2e.cluster import Cluster

INTERVAL_S = 5


class NoPrometheusError(Exception):
    """There is none, and none can be had."""


def binary(cache: Path) -> Path:
    """`prometheus` on PATH, else out of Debian's package, unpacked into the cache. Raises NoPrometheusError."""
    found = shutil.which("prometheus")
    if found:
        return Path(found)
    unpacked = cache / "prometheus"
    program = unpacked / "usr/bin/prometheus"
    if not program.exists():
        if not shutil.which("apt-get"):
            raise NoPrometheusError("needs `prometheus` on PATH, or Debian's or Ubuntu's apt-get to fetch it")
        unpacked.mkdir(parents=True, exist_ok=True)
        fetched = subprocess.run(
            ["apt-get", "download", "-q", "prometheus"], cwd=unpacked, capture_output=True, text=True, check=False
        )
        if fetched.returncode:
            raise NoPrometheusError(f"apt-get download prometheus: {fetched.stderr.strip()}")
        (package,) = unpacked.glob("prometheus_*.deb")
        subprocess.run(["dpkg", "-x", package, unpacked], check=True)
        package.unlink()
    return program


def config(api_server: str) -> dict[str, Any]:
    """Engines and operators, found by their labels."""
    return {
        "global": {"scrape_interval": f"{INTERVAL_S}s", "scrape_timeout": f"{INTERVAL_S}s"},
        "scrape_configs": [
            _job("engines", api_server, "octavo_dev_service", ".+", 8000),
            _job("operators", api_server, "app_kubernetes_io_name", "octavo-operator", 8080),
        ],
    }


def _job(name: str, api_server: str, label: str, value: str, port: int) -> dict[str, Any]:
    meta = "__meta_kubernetes"
    path = f"/api/v1/namespaces/$1/pods/$2:{port}/proxy/metrics"
    return {
        "job_name": name,
        "kubernetes_sd_configs": [{"role": "pod", "api_server": api_server}],
        "relabel_configs": [
            {"source_labels": [f"{meta}_pod_label_{label}"], "regex": value, "action": "keep"},
            {"source_labels": [f"{meta}_pod_phase"], "regex": "Running", "action": "keep"},
            {"source_labels": [f"{meta}_pod_container_port_number"], "regex": str(port), "action": "keep"},
            {"target_label": "__address__", "replacement": api_server.removeprefix("http://")},
            {
                "source_labels": [f"{meta}_namespace", f"{meta}_pod_name"],
                "separator": ";",
                "regex": "(.+);(.+)",
                "target_label": "__metrics_path__",
                "replacement": path,
            },
            {"source_labels": [f"{meta}_namespace"], "target_label": "namespace"},
            {"source_labels": [f"{meta}_pod_name"], "target_label": "pod"},
            {"source_labels": [f"{meta}_pod_label_octavo_dev_service"], "target_label": "service"},
        ],
    }


class Prometheus:
    """One that runs."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, **parameters: str) -> Any:
        """`data` of an answer of its API. Raises AssertionError with its words."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def query(self, expression: str) -> list[Any]:
        """The series that a query gives now."""
        result: list[Any] = self.ask("query", query=expression)["result"]
        return result

    def targets(self) -> list[dict[str, Any]]:
        active: list[dict[str, Any]] = self.ask("targets")["activeTargets"]
        return active


@contextmanager
def running(program: Path, cluster: Cluster, folder: Path, proxy_port: int, port: int) -> Iterator[Prometheus]:
    """Prometheus and `kubectl proxy`, until the end of the block."""
    (folder / "prometheus.json").write_text(json.dumps(config(f"http://127.0.0.1:{proxy_port}")))
    proxy = [cluster.tool("kubectl"), f"--kubeconfig={cluster.kubeconfig}", "proxy", f"--port={proxy_port}"]
    options = [f"--config.file={folder}/prometheus.json", f"--storage.tsdb.path={folder}/data"]
    log = folder / "prometheus.log"
    with log.open("w") as out, subprocess.Popen(proxy, stdout=out, stderr=out) as first:
        argv = [program, *options, f"--web.listen-address=127.0.0.1:{port}"]
        with subprocess.Popen(argv, stdout=out, stderr=out) as second:
            try:
                prometheus = Prometheus(f"http://127.0.0.1:{port}")
                _wait(prometheus, second, log)
                yield prometheus
            finally:
                second.terminate()
                first.terminate()


def _wait(prometheus: Prometheus, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            prometheus.query("vector(1)")
        except OSError:
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < end, log.read_text()[-2000:]
            time.sleep(0.3)
        else:
            return
