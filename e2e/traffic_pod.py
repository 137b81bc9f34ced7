"""`traffic.py` in a pod of its own, and what it says. Each one's requests count towards the suite's sum."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from e2e.world import HOME, World

DRIVER = Path(__file__).with_name("traffic.py")


@dataclass
class Ledger:
    """The requests of the whole suite. `failures` are those that any driver reported."""

    requests: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """The report of one driver. `seconds` are its lines, one a second."""

    requests: int
    failures: list[dict[str, Any]]
    answered: dict[str, int]
    connections: dict[str, int]
    longest_s: float
    seconds: list[dict[str, Any]]

    def __str__(self) -> str:
        return f"{self.requests} requests, {len(self.failures)} failed"


class TrafficPod:
    """Runs from `start` to `stop`; as a context manager it is gone at the end."""

    _count = 0

    def __init__(
        self,
        world: World,
        ledger: Ledger,
        url: str,
        model: str,
        *,
        clients: int = 16,
        max_tokens: int = 4,
        pause: float = 0.0,
        node: str | None = None,
    ) -> None:
        TrafficPod._count += 1
        self.name = f"traffic-{TrafficPod._count}"
        self._world, self._ledger, self._node = world, ledger, node
        self._command = ["python", "/driver/traffic.py", url, model, f"--clients={clients}"]
        self._command += [f"--max-tokens={max_tokens}", f"--pause={pause}"]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._world.kubectl("-n", HOME, "delete", "pod", self.name, "--wait=false", "--ignore-not-found")

    def start(self) -> None:
        """Returns once requests are answered."""
        volumes = [{"name": "driver", "configMap": {"name": "driver"}}]
        mounts = [{"name": "driver", "mountPath": "/driver"}]
        where = {"nodeName": self._node} if self._node else {}
        driver = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "driver", "namespace": HOME}}
        container = {"volumeMounts": mounts}
        pod = self._world.client_pod(self.name, self._command, volumes=volumes, container=container, **where)
        self._world.apply({**driver, "data": {"traffic.py": DRIVER.read_text()}}, pod)
        self._world.until(
            self._answers, 90, lambda: f"no request was answered:\n{self._world.state_of(HOME)}{self.log()}"
        )

    def log(self) -> str:
        return self._world.kubectl("-n", HOME, "logs", self.name, check=False)

    def lines(self) -> list[dict[str, Any]]:
        """The lines that it has printed so far."""
        return [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]

    @property
    def answered(self) -> int:
        return sum(line["answered"] for line in self.lines() if line["event"] == "second")

    def wait_for(self, requests: int, seconds: float) -> None:
        """Wait until so many were answered, or for so long: a slow machine answers fewer."""
        end = time.monotonic() + seconds
        while self.answered < requests and time.monotonic() < end:
            time.sleep(3)

    def stop(self) -> Report:
        """Let it finish its requests; what became of all."""
        self._world.kubectl("-n", HOME, "exec", self.name, "--", "python", "-c", "import os; os.kill(1, 15)")
        self._world.until(self._has_ended, 150, lambda: f"the driver does not end:\n{self.log()[-2000:]}")
        lines = self.lines()
        total = lines[-1]
        assert total["event"] == "sum", self.log()[-2000:]
        failures = [line for line in lines if line["event"] == "failure"]
        assert len(failures) == total["failed"]
        self._ledger.requests += total["requests"]
        self._ledger.failures += failures
        seconds = [line for line in lines if line["event"] == "second"]
        parts = (total["answered"], total["connections"], total["longest_s"])
        return Report(total["requests"], failures, *parts, seconds)

    def _answers(self) -> bool:
        return any(line["event"] == "second" and line["answered"] for line in self.lines())

    def _has_ended(self) -> bool:
        pod = self._world.get("pod", self.name, HOME)
        assert pod is not None
        return pod["status"]["phase"] in {"Succeeded", "Failed"}
