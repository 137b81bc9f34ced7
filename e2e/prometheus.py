"""A real Prometheus on this machine, which scrapes a cluster's pods through the API server, with a ServiceMonitor's labels."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e2e.cluster import Cluster

INTERVAL_S = 5
PORTS = {"engines": 8000, "operators": 8080}


class NoPrometheusError(Exception):
    """Prometheus is not installed, and can't be fetched."""


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


def config(api_server: str, pods: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Scrapes of `pods`, each with its job: "engines" or "operators". Debian's build can't discover them itself."""
    jobs: dict[str, list[dict[str, Any]]] = {}
    for job, pod in pods:
        metadata = pod["metadata"]
        where = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}:{PORTS[job]}/proxy/metrics"
        labels = {"__metrics_path__": where, "namespace": metadata["namespace"], "pod": metadata["name"]}
        jobs.setdefault(job, []).append({"targets": [api_server], "labels": labels})
    return {
        "global": {"scrape_interval": f"{INTERVAL_S}s", "scrape_timeout": f"{INTERVAL_S}s"},
        "scrape_configs": [{"job_name": job, "static_configs": targets} for job, targets in jobs.items()],
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
def running(
    program: Path,
    cluster: Cluster,
    folder: Path,
    pods: Iterable[tuple[str, dict[str, Any]]],
    *,
    proxy_port: int,
    port: int,
) -> Iterator[Prometheus]:
    """Prometheus and `kubectl proxy`, until the end of the block."""
    (folder / "prometheus.json").write_text(json.dumps(config(f"127.0.0.1:{proxy_port}", pods)))
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
