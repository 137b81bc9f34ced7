"""TLS of the front of several replicas, with the files that the replicas serve with."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from octavo_operator.errors import LocalError
from octavo_operator.planner.plan import Tls
from octavo_operator.serving_tls import ServingTls

PAUSE_S = 1.0  # between two looks at the files


class FrontTls:
    """Follows the files while `follow` runs. A pair that can't be used leaves the last one in place."""

    def __init__(self, tls: Tls) -> None:
        """Raises LocalError where the files can't be used."""
        self._certificate = Path(tls.certificate)
        self._key = None if tls.key is None else Path(tls.key)
        try:
            self._used = self._read()
            self._tls = ServingTls(*self._used)
        except (OSError, ValueError) as error:  # ssl's errors are OSErrors
            why = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
            names = tls.certificate if tls.key is None else f"{tls.certificate} and {tls.key}"
            raise LocalError(
                f"the front of several replicas can't serve HTTPS with {names}: {why}; name files of this machine in "
                "engine.args"
            ) from error

    @property
    def context(self) -> ssl.SSLContext:
        """The listener's, for as long as it listens."""
        return self._tls.context

    async def follow(self) -> None:
        """Use what the files hold from the next handshake on, until cancelled."""
        while True:
            await asyncio.sleep(PAUSE_S)
            try:
                found = self._read()
                if found != self._used:
                    self._tls.update(*found)
                    self._used = found
            except (OSError, ValueError):
                continue  # in the middle of a change; the engine's log has it where it lasts

    def _read(self) -> tuple[bytes, bytes]:
        return self._certificate.read_bytes(), b"" if self._key is None else self._key.read_bytes()
