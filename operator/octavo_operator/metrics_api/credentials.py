"""Keeps the serving certificate and the front proxy's authority current."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import logging
import ssl
from pathlib import Path

from octavo_operator.api.resources import CONFIG_MAPS, SECRETS
from octavo_operator.cluster.client import Cluster
from octavo_operator.errors import OperatorError
from octavo_operator.metrics_api.announcement import SECRET
from octavo_operator.metrics_api.authentication import CONFIG_NAME, CONFIG_NAMESPACE, Authenticator, front_proxy
from octavo_operator.metrics_api.serving_certificate import current
from octavo_operator.serving_tls import ServingTls

PERIOD_S = 10.0
STARTING_S = 1.0

log = logging.getLogger(__name__)

Pair = tuple[bytes, bytes]
"""A certificate and its key, PEM."""


class ServingCredentials:
    """Renewed while `run` runs. Until there is a certificate, an untrusted one serves health alone."""

    def __init__(
        self, cluster: Cluster, authenticator: Authenticator, namespace: str, files: tuple[Path, Path] | None
    ) -> None:
        self._cluster = cluster
        self._authenticator = authenticator
        self._namespace = namespace
        self._files = files
        self._used: tuple[Pair, str] | None = None
        preliminary = current(None, ["localhost"], dt.datetime.now(dt.UTC))
        self.tls = ServingTls(preliminary.certificate, preliminary.key)
        self.trouble = "not read yet"

    async def run(self) -> None:
        while True:
            trouble = ""
            try:
                await self._look()
            except (OperatorError, OSError, ValueError) as error:  # ssl's errors are OSErrors
                trouble = str(error)
                if trouble != self.trouble:
                    log.warning("certificates can't be looked after, what was known is used: %s", trouble)
            self.trouble = trouble
            await asyncio.sleep(PERIOD_S if self.usable else STARTING_S)

    @property
    def usable(self) -> bool:
        """True once there has been a certificate: it stays in use when a renewal fails."""
        return self._used is not None

    async def _look(self) -> None:
        proxy = front_proxy(await self._cluster.get(CONFIG_MAPS, CONFIG_NAMESPACE, CONFIG_NAME))
        pair = await self._pair()
        self._authenticator.proxy = proxy
        if self._used == (pair, proxy.authority):
            return
        try:
            self.tls.update(*pair, proxy.authority)
        except (ssl.SSLError, ValueError) as error:
            where = self._files[0] if self._files else f"the Secret {SECRET}"
            raise OperatorError(
                f"the certificate of {where}, or the front proxy's authority, can't be used: {error}"
            ) from error
        log.info("serving with %s certificate", "another" if self._used else "a")
        self._used = (pair, proxy.authority)

    async def _pair(self) -> Pair:
        if self._files is not None:
            certificate, key = self._files
            return await asyncio.to_thread(lambda: (certificate.read_bytes(), key.read_bytes()))
        secret = await self._cluster.get(SECRETS, self._namespace, SECRET)
        data = (secret or {}).get("data") or {}
        if "tls.crt" not in data or "tls.key" not in data:
            raise OperatorError(
                f"the Secret {self._namespace}/{SECRET} is not there yet; the operator that leads makes it"
            )
        return base64.b64decode(data["tls.crt"]), base64.b64decode(data["tls.key"])
