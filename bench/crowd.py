"""Measures the operator in a large cluster: memory, CPU a look, and how regularly it renews its Lease.

Starts a real control plane, fills it with nodes, other people's pods and GPU services, lets the operator bring all
services up, then touches every service once and measures that round. A *look* is one reconcile of one service, with
everything that the watches cost meanwhile.

    PYTHONPATH=testing python -m bench.crowd --scale 0.1                 # 1,000 pods, 50 nodes, 100 services
    PYTHONPATH=testing python -m bench.crowd --operator OTHER/operator   # another version's source, for a comparison
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
from octavo_testing.api_client import ApiClient, ApiError, until
from octavo_testing.control_plane import ControlPlane
from octavo_testing.fake_kubelet import FakeKubelet
from octavo_testing.operator_runs import ACCOUNT, API, USER, Operator, service

NODES, PODS, SERVICES = 500, 10_000, 1_000
NAMESPACES = 20
GPUS = 8
PRODUCT = "NVIDIA-L4"
GOAL_MIB, GOAL_MS = 256, 20
Object = dict[str, Any]
OTHER_VERSION = """
import sys
from importlib.machinery import PathFinder

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "octavo_operator":
            return PathFinder.find_spec(name, path or [{source!r}])

sys.meta_path.insert(0, Finder)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the operator in a crowded cluster.")
    parser.add_argument(
        "--scale", type=float, default=1.0, help=f"1 is {PODS} pods, {NODES} nodes, {SERVICES} services"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=3600,
        metavar="SECONDS",
        help="for all services to be ready; then go on anyway",
    )
    parser.add_argument("--operator", metavar="FOLDER", help="source folder of another version of the operator")
    options = parser.parse_args()
    nodes, pods, services = (max(1, round(options.scale * count)) for count in (NODES, PODS, SERVICES))
    print(f"{nodes} nodes, {pods} pods, {services} GPU services; {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="octavo-crowd-") as folder, ControlPlane(Path(folder)) as plane:
        plane.kubectl("apply", "-f", ROOT / "crds", "-f", ROOT / "config/rbac")
        plane.kubectl("wait", "--for=condition=Established", "crd/llmservices.octavo.dev", "--timeout=30s")
        with ServicesKubelet(plane) as kubelet:
            kubelet.run_pods = True
            began = time.monotonic()
            fill(plane, nodes, pods)
            print(f"the crowd was written in {time.monotonic() - began:.0f} s")
            measure(plane, Path(folder) / "operator.log", services, options)
    return 0


class ServicesKubelet(FakeKubelet):
    """Runs the services' pods; the crowd's are bound, which is all that counts of them."""

    def _handle_pod(self, api: ApiClient, pod: Object) -> None:
        if pod["metadata"].get("ownerReferences"):
            super()._handle_pod(api, pod)


def fill(plane: ControlPlane, nodes: int, pods: int) -> None:
    """Nodes with GPUs, and pods bound to them."""
    each = max(1, pods // NAMESPACES)
    for index in range(NAMESPACES):
        plane.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"crowd-{index}"}})
    until(lambda: all(plane.api.find("v1", "ServiceAccount", "default", f"crowd-{i}") for i in range(NAMESPACES)), 60)
    in_parallel(lambda index: add_node(plane, index), nodes)
    in_parallel(lambda index: plane.api.create(crowd_pod(index, f"crowd-{index // each % NAMESPACES}", nodes)), pods)


def add_node(plane: ControlPlane, index: int) -> None:
    name = f"node-{index}"
    labels = {"kubernetes.io/hostname": name, "nvidia.com/gpu.product": PRODUCT, "nvidia.com/gpu.memory": "23034"}
    labels |= {f"feature.node.kubernetes.io/cpu-{number}": "true" for number in range(30)}
    plane.api.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
    amounts = {"cpu": "64", "memory": "512Gi", "ephemeral-storage": "1Ti", "pods": "110", "nvidia.com/gpu": str(GPUS)}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
    images = [{"names": [f"registry.example/image-{number}:1"], "sizeBytes": 1 << 28} for number in range(50)]
    status = {"conditions": [ready], "capacity": amounts, "allocatable": amounts, "images": images}
    plane.api.patch("v1", "Node", name, "", {"status": status}, subresource="status")


def crowd_pod(index: int, namespace: str, nodes: int) -> Object:
    """About as large as people's pods are."""
    environment = [{"name": f"VARIABLE_{number}", "value": "x" * 60} for number in range(20)]
    container = {
        "name": "app",
        "image": "registry.example/app:1",
        "env": environment,
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"pod-{index}", "namespace": namespace, "labels": {"app": f"app-{index % 200}"}},
        "spec": {"nodeName": f"node-{index % nodes}", "containers": [container, {**container, "name": "sidecar"}]},
    }


def in_parallel(write: Any, count: int) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for done in pool.map(write, range(count)):
            del done


def names(services: int) -> list[tuple[str, str]]:
    return [(f"crowd-{index % NAMESPACES}", f"s{index}") for index in range(services)]


def measure(plane: ControlPlane, log: Path, services: int, options: argparse.Namespace) -> None:
    for namespace, name in names(services):
        body = service(name, namespace, accelerator={"products": [PRODUCT]})
        patiently(partial(plane.api.create, body))
    if source := options.operator:
        # An editable installation comes before PYTHONPATH, and site's own hook before that.
        (log.parent / "sitecustomize.py").write_text(OTHER_VERSION.format(source=str(Path(source).resolve())))
        os.environ["PYTHONPATH"] = str(log.parent)
    gaps = LeaseGaps(plane)
    operator = Operator(plane.kubeconfig(ACCOUNT), log)
    try:
        operator.wait_ready()
        began, first = time.monotonic(), cpu_s(operator)
        bring_up(operator, services, options.patience)
        report("bringing up", operator, first, 0)
        if count_ready(operator) == services:
            operator.wait_idle(600)
            time.sleep(5)
        cpu, looks, began = cpu_s(operator), reconciles(operator), time.monotonic()
        for namespace, name in names(services):
            touch = partial(
                plane.api.patch, API, "LLMService", name, namespace, {"metadata": {"labels": {"round": "1"}}}
            )
            patiently(touch)
        until(lambda: reconciles(operator) - looks >= services, 1800, "every service was looked at", pause=0.5)
        print(f"a round of {services} looks in {time.monotonic() - began:.0f} s")
        report("a round", operator, cpu, looks)
        cpu, began = cpu_s(operator), time.monotonic()
        time.sleep(30)
        print(f"idle: {100 * (cpu_s(operator) - cpu) / (time.monotonic() - began):.1f} % of a core")
        print(f"the Lease: longest pause between renewals as a standby sees it {gaps.longest:.1f} s of 15 s")
        print(f"           {renewals(plane)}")
        print(f"load average {os.getloadavg()[1]:.0f}; goal: memory ≤ {GOAL_MIB} MiB, ≤ {GOAL_MS} ms a look")
    finally:
        gaps.stop()
        operator.stop()


def bring_up(operator: Operator, services: int, patience: float) -> None:
    """Wait until all are ready, or patience is over; print the progress once a minute."""
    began, said = time.monotonic(), 0.0
    while (ready := count_ready(operator)) < services and (passed := time.monotonic() - began) < patience:
        if passed - said >= 60:
            said = passed
            print(
                f"  {passed:.0f} s: {ready} ready, {reconciles(operator):.0f} looks, load {os.getloadavg()[0]:.0f}",
                flush=True,
            )
        time.sleep(2)
    print(f"{ready} of {services} services ready after {time.monotonic() - began:.0f} s", flush=True)


def renewals(plane: ControlPlane) -> str:
    """The longest pause between two renewals by the API server's own record, and how much of it that server took."""
    asked = []
    with plane.audit.path.open() as log:
        for line in log:
            if '"resource":"leases"' in line and USER in line:
                event = json.loads(line)
                asked.append(
                    (seconds(event["requestReceivedTimestamp"]), seconds(event["stageTimestamp"]), event["verb"])
                )
    asked.sort(key=lambda each: each[1])
    done = [index for index, (_, _, verb) in enumerate(asked) if verb in {"update", "create"}]
    pauses = [
        (asked[after][1] - asked[before][1], sum(asked[i][1] - asked[i][0] for i in range(before + 1, after + 1)))
        for before, after in pairwise(done)
    ]
    if not pauses:
        return "no renewal was recorded"
    longest, answering = max(pauses)
    return (
        f"by the API server's record {longest:.1f} s, of which it took {answering:.1f} s to answer; "
        f"{len(done)} renewals, half of them within {sorted(pause for pause, _ in pauses)[len(pauses) // 2]:.1f} s"
    )


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def report(what: str, operator: Operator, cpu: float, looks: float) -> None:
    used, done = cpu_s(operator) - cpu, reconciles(operator) - looks
    status = Path(f"/proc/{operator.process.pid}/status").read_text()
    peak, now = (int(re.search(rf"{key}:\s+(\d+)", status)[1]) / 1024 for key in ("VmHWM", "VmRSS"))  # type: ignore[index]
    print(
        f"{what}: {used:.1f} s CPU, {done:.0f} looks, {1000 * used / max(1, done):.1f} ms a look; memory {now:.0f} MiB, peak {peak:.0f} MiB"
    )


def cpu_s(operator: Operator) -> float:
    fields = Path(f"/proc/{operator.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def metric(operator: Operator, name: str) -> float:
    """The sum over all labels, as soon as the operator answers: a list of the services would load the API server."""
    while not (text := operator.ask("/metrics")[1]):
        time.sleep(1)
    return sum(float(value) for value in re.findall(rf"^{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE))


def reconciles(operator: Operator) -> float:
    return metric(operator, "octavo_operator_reconciles_total")


def count_ready(operator: Operator) -> int:
    return int(metric(operator, "octavo_llmservice_replicas_ready"))


def patiently(call: Callable[[], Any]) -> None:
    """Again, while the API server is too busy to answer in time."""
    for _ in range(20):
        try:
            call()
        except OSError:
            time.sleep(1)
            continue
        except ApiError as error:
            if error.status != 409:  # what timed out was done nevertheless
                raise
        return


class LeaseGaps:
    """Watches the Lease, as a standby would."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._ended = threading.Event()
        self.longest = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(10)

    def _run(self) -> None:
        version, changed = "", time.monotonic()
        while not self._ended.wait(0.2):
            try:
                lease = self._plane.api.find("coordination.k8s.io/v1", "Lease", "octavo-operator", "octavo-system")
            except (OSError, ApiError, json.JSONDecodeError):
                continue
            if lease is not None and lease["metadata"]["resourceVersion"] != version:
                if version:
                    self.longest = max(self.longest, time.monotonic() - changed)
                version, changed = lease["metadata"]["resourceVersion"], time.monotonic()


if __name__ == "__main__":
    sys.exit(main())
