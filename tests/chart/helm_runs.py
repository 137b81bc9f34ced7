"""helm as a person runs it, and what a chart renders to as plain objects."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "octavo"
PREVIOUS = Path(__file__).parent / "octavo-0.0.1"
KUBERNETES = "1.34.0"  # for what is rendered without a server
OF_HELM = {"helm.sh/chart", "helm.sh/resource-policy"} | {
    f"app.kubernetes.io/{name}" for name in ("instance", "version", "managed-by")
}

Object = dict[str, Any]


class HelmError(Exception):
    """helm ended with an error; the message is what it said."""


class Helm:
    """One helm, with its caches in `folder`; with a kubeconfig for what asks a server."""

    def __init__(self, binary: Path, folder: Path, kubeconfig: Path | None = None) -> None:
        self.binary = binary
        places = {
            name: str(folder / name.lower()) for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")
        }
        self._environment = {**os.environ, **places, "KUBECONFIG": str(kubeconfig or os.devnull)}

    def run(self, *arguments: str | Path, values: Mapping[str, Any] | None = None) -> str:
        """Run helm and return what it printed. Raises HelmError."""
        given = ["--values", "-"] if values else []
        done = subprocess.run(
            [self.binary, *arguments, *given],
            input=json.dumps(values),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=self._environment,
        )
        if done.returncode:
            raise HelmError(done.stderr or done.stdout)
        return done.stdout

    def template(
        self, values: Mapping[str, Any] | None = None, namespace: str = "octavo-system", *, tests: bool = False
    ) -> list[Object]:
        """The objects of `helm install octavo`; the pod of `helm test` only with `tests`."""
        skip = [] if tests else ["--skip-tests"]
        text = self.run(
            *("template", "octavo", CHART, "--namespace", namespace, "--kube-version", KUBERNETES, *skip), values=values
        )
        return [each for each in yaml.safe_load_all(text) if each]


def by_name(objects: Iterable[Object]) -> dict[tuple[str, str, str], Object]:
    """The objects by kind, namespace and name; each must be there once."""
    found: dict[tuple[str, str, str], Object] = {}
    for each in objects:
        key = (each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"])
        assert key not in found, f"{key} is rendered twice"
        found[key] = each
    return found


def without_helm(thing: Object) -> Object:
    """An object without the labels and annotations that helm adds."""
    metadata = dict(thing["metadata"])
    for field in ("labels", "annotations"):
        kept = {key: value for key, value in metadata.pop(field, {}).items() if key not in OF_HELM}
        if kept:
            metadata[field] = kept
    return {**thing, "metadata": metadata}
