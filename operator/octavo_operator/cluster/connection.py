"""Connects to the API server: from within the cluster by the ServiceAccount's files, elsewhere by $KUBECONFIG."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from octavo_operator.errors import NoClusterError

FRESH_S = 10.0  # a token's file is read again
RENEWAL_PAUSE_S = 10.0  # a credential plugin may take seconds, and prompt a person

log = logging.getLogger(__name__)

MOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class Connection:
    """Address, trusted CA and credentials. A token is read for each request, because the kubelet rotates it."""

    server: str
    authority: str | None
    token: str | None = None
    token_file: Path | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    skip_verification: bool = False
    namespace: str = "default"
    renewed: Callable[[], Connection] | None = None
    """Reads the kubeconfig again, and so runs its credential plugin; None where the token's file is enough."""

    def headers(self) -> dict[str, str]:
        """The Authorization header, where a token is the credential."""
        token = self.token_file.read_text(encoding="utf-8").strip() if self.token_file is not None else self.token
        return {"Authorization": f"Bearer {token}"} if token else {}

    def tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.authority)
        if self.skip_verification:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if self.client_certificate is not None:
            context.load_cert_chain(self.client_certificate, self.client_key)
        return context


class ClientCredentials:
    """Present credentials: tokens and certificates of a kubeconfig expire, and are read again when refused."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._headers: tuple[float, dict[str, str]] = (-FRESH_S, {})  # monotonic
        self._renewed = -RENEWAL_PAUSE_S  # monotonic
        self._lock = asyncio.Lock()

    def headers(self) -> dict[str, str]:
        """Raises OSError where the token's file can't be read.

        The kubelet replaces that file long before the token in it expires.
        """
        now = time.monotonic()
        if now - self._headers[0] >= FRESH_S:
            self._headers = now, self._connection.headers()
        return self._headers[1]

    def _read_again(self) -> bool:
        """True if the token's file has another token by now."""
        before, self._headers = self._headers[1], (-FRESH_S, {})
        try:
            return self.headers() != before
        except OSError:
            return False

    async def renew(self, tls: ssl.SSLContext) -> bool:
        """Read the credentials again after a 401; whether they may differ. A client certificate is loaded into `tls`."""
        if self._connection.renewed is None:
            return self._read_again()
        asked = time.monotonic()
        async with self._lock:
            if self._renewed > asked:
                return True  # the 401 of another request has renewed them meanwhile
            if asked - self._renewed < RENEWAL_PAUSE_S:
                return False
            try:
                found = await asyncio.to_thread(self._connection.renewed)
            except NoClusterError as error:
                log.warning("the credentials were refused and could not be renewed: %s", error)
                return False
            finally:
                self._renewed = time.monotonic()
            self._connection = found
            self._headers = (-FRESH_S, {})
            if found.client_certificate is not None:
                tls.load_cert_chain(found.client_certificate, found.client_key)
            log.info("the credentials were refused and have been renewed")
            return True


def connect() -> Connection:
    """$KUBECONFIG where it is set, else the pod's ServiceAccount, else ~/.kube/config.

    Raises:
        NoClusterError: there is none of them, or it can't be used.
    """
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if host and not os.environ.get("KUBECONFIG") and (MOUNT / "token").exists():
        address = f"[{host}]" if ":" in host else host
        namespace = (MOUNT / "namespace").read_text(encoding="utf-8").strip()
        return Connection(
            f"https://{address}:{port}", str(MOUNT / "ca.crt"), token_file=MOUNT / "token", namespace=namespace
        )
    return _from_kubeconfig()


def _from_kubeconfig() -> Connection:
    from kubernetes import client, config  # noqa: PLC0415 — half a second that a pod need not wait

    chosen = client.Configuration()
    try:
        file = os.environ.get("KUBECONFIG") or None
        config.load_kube_config(file, client_configuration=chosen)  # type: ignore[no-untyped-call]
        _, active = config.list_kube_config_contexts(file)  # type: ignore[no-untyped-call]
    except (config.ConfigException, OSError) as error:
        raise NoClusterError(f"no API server is known: {error}; set KUBECONFIG") from error
    bearer = chosen.get_api_key_with_prefix("BearerToken") or chosen.get_api_key_with_prefix("authorization")
    return Connection(
        chosen.host.rstrip("/"),
        chosen.ssl_ca_cert,
        token=bearer.removeprefix("Bearer ") if bearer else None,
        client_certificate=chosen.cert_file,
        client_key=chosen.key_file,
        skip_verification=not chosen.verify_ssl,
        namespace=active.get("context", {}).get("namespace", "default"),
        renewed=_from_kubeconfig,
    )
