"""The suite's handle of a cluster, its own or another's."""

from __future__ import annotations

import json
import os
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

RESOURCE = "nvidia.com/gpu"
PRODUCT = "nvidia.com/gpu.product"  # GPU feature discovery's labels
COUNT = "nvidia.com/gpu.count"


class MissingError(Exception):
    """The machine can't do what was asked; one sentence for each thing that is missing."""

    def __init__(self, *sentences: str) -> None:
        self.sentences = sentences
        super().__init__("\n".join(sentences))


@dataclass(frozen=True, slots=True)
class Urls:
    """The addresses at which pods find what an air-gapped company would run. `registry` is a host and port, the others
    are URLs.
    """

    registry: str  # 10.88.0.1:5000; nodes of our own pull every image from it, so that names need no prefix
    index: str  # http://10.88.0.1:5001/simple, for package://
    hub: str  # http://10.88.0.1:5002, for hf:// as HF_ENDPOINT


class Cluster(ABC):
    """A cluster as an administrator of it."""

    is_ours = False
    pull_policy = "IfNotPresent"
    """The policy with which nodes run what `push_image` gave them last, under a tag that they have pulled before."""
    image_registry = ""
    """The registry in images' names before `octavo/engine`: the chart's image.registry."""

    def __init__(self, kubeconfig: Path, urls: Urls) -> None:
        self.kubeconfig = kubeconfig
        self.urls = urls
        self._environment = {**os.environ, "KUBERC": "off"}  # a person's own preferences say nothing here

    @property
    def nodes(self) -> list[str]:
        """The names of the nodes, sorted."""
        names = self.kubectl("get", "nodes", "-o", "jsonpath={.items[*].metadata.name}")
        return sorted(names.split())

    def kubectl(
        self, *arguments: str | Path, stdin: str | None = None, check: bool = True, seconds: float = 120
    ) -> str:
        """kubectl's output, stderr after stdout. Raises AssertionError with it if `check` is set and kubectl fails."""
        done = subprocess.run(
            [self.tool("kubectl"), f"--kubeconfig={self.kubeconfig}", *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            env=self._environment,
        )
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    @abstractmethod
    def tool(self, name: str) -> Path:
        """The path of `kubectl` or `helm`, built if need be."""

    @abstractmethod
    def push_image(self, archive: Path) -> list[str]:
        """Put the images of an OCI archive where nodes pull from; the names that a pod gives for them."""

    @abstractmethod
    def publish_model(self, name: str, folder: Path, token: str | None = None) -> None:
        """Let the hub stand-in serve the folder's files as model `name`; with a token, to its bearer alone."""

    @abstractmethod
    def publish_package(self, wheel: Path) -> None:
        """Let the package index serve a wheel."""

    def set_gpus(self, node: str, count: int, product: str = "") -> None:
        """Let the node have `count` pretended GPUs of a product; 0 takes them away. The kubelet keeps them.

        The scheduler counts them as it would real ones. A pod that gets one finds no device.
        """
        labels = {PRODUCT: product if count else None, COUNT: str(count) if count else None}
        self.kubectl("patch", "node", node, "--type=merge", "--patch", json.dumps({"metadata": {"labels": labels}}))
        amount = {RESOURCE: str(count) if count else None}
        status = {"status": {"capacity": amount, "allocatable": amount}}
        self.kubectl("patch", "node", node, "--subresource=status", "--type=merge", "--patch", json.dumps(status))
