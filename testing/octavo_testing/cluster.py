"""An API server for tests, whichever runs it, and what a test asks of it as an administrator or as another user."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from octavo_testing.api_client import ApiClient, Endpoint
from octavo_testing.kubernetes_binaries import binaries

TOKEN_SECONDS = 6 * 3600


class Cluster:
    """The common part of `ControlPlane` and `UserCluster`. `folder` holds the kubeconfigs that are handed out."""

    own = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._kubeconfigs: dict[tuple[str, str], Path] = {}
        self._clients: dict[str, ApiClient] = {}

    def endpoint(self, user: str = "admin", server: str = "") -> Endpoint:
        """The endpoint of the API server for `user`: "admin", or "NAMESPACE/NAME" for a ServiceAccount (by
        TokenRequest).
        """
        raise NotImplementedError

    @property
    def api(self) -> ApiClient:
        """The API server's client as an administrator."""
        return self.api_as("admin")

    def api_as(self, user: str) -> ApiClient:
        if user not in self._clients:
            self._clients[user] = ApiClient(self.endpoint(user))
        return self._clients[user]

    def close(self) -> None:
        """Close the connections of what was handed out."""
        for client in self._clients.values():
            client.close()

    def kubeconfig(self, user: str = "admin", server: str = "") -> Path:
        """A kubeconfig file of a user; `server` names another way in, as a `FaultProxy`'s."""
        key = (user, server)
        if key not in self._kubeconfigs:
            name = "-".join([*user.split("/"), *([server.rpartition(":")[2]] if server else [])])
            path = self.folder / f"{name}.kubeconfig"
            write_kubeconfig(path, self.endpoint(user, server))
            self._kubeconfigs[key] = path
        return self._kubeconfigs[key]

    def kubectl(self, *arguments: str | Path, stdin: str | None = None, user: str = "admin", check: bool = True) -> str:
        """kubectl's output, stderr after stdout. Raises AssertionError with it unless `check` is False."""
        argv = [binaries() / "kubectl", f"--kubeconfig={self.kubeconfig(user)}", f"--cache-dir={self.folder}/discovery"]
        done = subprocess.run(
            [*map(str, argv), *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "KUBERC": "off"},  # a person's own preferences say nothing here
        )
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def wait_established(self, *definitions: str, seconds: float = 60) -> None:
        """Wait until CustomResourceDefinitions are served: `kubectl wait` fails on one that has no status yet."""
        end = time.monotonic() + seconds
        for name in definitions:
            while not self._is_established(name):
                assert time.monotonic() < end, f"{name} is not established"
                time.sleep(0.1)

    def _is_established(self, name: str) -> bool:
        found = self.api.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", name)
        conditions = found.get("status", {}).get("conditions") or ()
        return any((each["type"], each["status"]) == ("Established", "True") for each in conditions)

    def client(self, user: str = "admin") -> Any:
        """A `kubernetes.dynamic.DynamicClient`; the caller closes its `.client`."""
        from kubernetes import config, dynamic

        # Its default cache, keyed by the address alone, would outlive this server.
        cache = Path(tempfile.mkdtemp(dir=self.folder)) / "discovery.json"
        return dynamic.DynamicClient(config.new_client_from_config(str(self.kubeconfig(user))), cache_file=str(cache))

    def service_account_token(self, namespace: str, name: str) -> str:
        path = self.api.path("v1", "ServiceAccount", namespace, name) + "/token"
        wanted = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": TOKEN_SECONDS},
        }
        token: str = self.api.request("POST", path, wanted)["status"]["token"]
        return token


class UserCluster(Cluster):
    """The cluster of a person's $KUBECONFIG. Tests that need more than an API server are skipped here, and say why."""

    def __init__(self, kubeconfig: str, folder: Path) -> None:
        super().__init__(folder)
        self._kubeconfigs["admin", ""] = Path(kubeconfig).expanduser()

    def endpoint(self, user: str = "admin", server: str = "") -> Endpoint:
        from kubernetes import config

        configuration = config.new_client_from_config(str(self.kubeconfig())).configuration
        admin = Endpoint(
            server=server or configuration.host,
            authority=configuration.ssl_ca_cert,
            # Its key is called BearerToken or authorization, as the client's version has it.
            token=next(iter(configuration.api_key.values()), "").removeprefix("Bearer "),
            client_certificate=configuration.cert_file,
            client_key=configuration.key_file,
            skip_verification=not configuration.verify_ssl,
        )
        if user == "admin":
            return admin
        return Endpoint(
            admin.server,
            admin.authority,
            self.service_account_token(*user.split("/")),
            skip_verification=admin.skip_verification,
        )

    def in_use(self) -> bool:
        """True if a user's LLMServices are in it."""
        found = self.kubectl("get", "llmservices.octavo.dev", "-A", "-o", "name", check=False)
        return any(line.startswith("llmservice.octavo.dev/") for line in found.splitlines())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        pytest.skip(
            f"needs the tests' own control plane for {name!r}: $KUBECONFIG's cluster can't be stopped, has no audit "
            "log that tests may read and gets no pretended nodes; unset KUBECONFIG to run this"
        )


def write_kubeconfig(path: Path, endpoint: Endpoint) -> None:
    """A kubeconfig, as JSON, that names the files of the endpoint."""
    user = {"token": endpoint.token} if endpoint.token else {}
    if endpoint.client_certificate:
        user = {"client-certificate": endpoint.client_certificate, "client-key": str(endpoint.client_key)}
    cluster: dict[str, Any] = {"server": endpoint.server}
    if endpoint.skip_verification:
        cluster["insecure-skip-tls-verify"] = True
    elif endpoint.authority:
        cluster["certificate-authority"] = endpoint.authority
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": user}],
    }
    path.touch(0o600)  # kubectl and others warn of tokens that all users may read
    path.write_text(json.dumps(config, indent=1))
