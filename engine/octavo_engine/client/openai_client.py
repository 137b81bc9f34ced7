"""A small client of the OpenAI API, for the terminal's chat and for the load generator.

Works with any server of that API. Uses the standard library and aiohttp only, since it shares its cores with the server
that it measures.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Any, Self

import aiohttp

from octavo_engine.errors import OctavoError

CONNECT_SECONDS = 10.0
DONE = b"[DONE]"


class ApiError(OctavoError):
    """The server can't be reached, refuses, or breaks off. `status` is the HTTP status where there was one."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class EventParser:
    """Server-sent events out of bytes as they arrive (WHATWG HTML, 9.2.6), only their data."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, received: bytes) -> list[bytes]:
        """The data of each event that these bytes complete."""
        lines = (self._rest + received).split(b"\n")
        self._rest = lines.pop()
        events = []
        for line in lines:
            stripped = line.removesuffix(b"\r")
            if stripped.startswith(b"data:"):
                self._data.append(stripped[5:].removeprefix(b" "))
            elif not stripped and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events


class OpenAIClient:
    """An asynchronous context manager; `base_url` with or without `/v1`."""

    def __init__(self, base_url: str, api_key: str | None = None, ca_cert: str | None = None) -> None:
        """`ca_cert`: PEM file of the server's authority, or of the server itself; None: those that this machine trusts."""
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        # A key out of a file or a Secret ends in a newline, which no header can hold.
        api_key = (api_key or "").strip()
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._ca_cert = ca_cert
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Raises ApiError where the file of certificates can't be used."""
        tls = True if self._ca_cert is None else _trusting(self._ca_cert)
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            connector=aiohttp.TCPConnector(limit=0, ssl=tls),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def models(self) -> list[str]:
        """The names under which the server serves. Raises ApiError."""
        try:
            async with self._open().get(f"{self.base_url}/v1/models") as response:
                await self._check(response)
                listing = await response.json(content_type=None)
                return [entry["id"] for entry in listing["data"]]
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise ApiError(f"{self.base_url}/v1/models does not answer as the OpenAI API does") from error

    async def stream(self, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of a streamed answer. Raises ApiError, also where the stream ends before its `[DONE]`."""
        parser = EventParser()
        try:
            async with self._open().post(self.base_url + path, json=body) as response:
                await self._check(response)
                async for received in response.content.iter_any():
                    for event in parser.feed(received):
                        if event == DONE:
                            return
                        yield _chunk(event)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from error
        raise ApiError("the server closed the stream before its end")

    def _open(self) -> aiohttp.ClientSession:
        assert self._session is not None
        return self._session

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        if response.status == 200:
            return
        reason = _reason(await response.text()) or response.reason or "no reason given"
        if response.status == 401:
            reason += "; pass --api-key or set OPENAI_API_KEY"
        raise ApiError(f"the server answers {response.status}: {reason}", response.status)

    def _unreachable(self, error: Exception) -> ApiError:
        if isinstance(error, aiohttp.InvalidURL):
            return ApiError(f"--base-url {self.base_url} is not a URL such as http://127.0.0.1:8000")
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            why = getattr(error.certificate_error, "verify_message", "") or str(error.certificate_error)
            return ApiError(
                f"the certificate of {self.base_url} is not trusted ({why}): name its authority with --ca-cert FILE, and "
                "the server as its certificate does"
            )
        if isinstance(error, aiohttp.ClientConnectorSSLError):
            return ApiError(f"{self.base_url} does not speak TLS: use http://, or serve with --ssl-certfile")
        if isinstance(error, aiohttp.ClientConnectorError):
            why = error.os_error.strerror or str(error.os_error) if error.os_error else str(error)
            return ApiError(
                f"no server answers at {self.base_url} ({why}): start one with `octavo serve MODEL`, or name another "
                "with --base-url"
            )
        return ApiError(f"the connection to {self.base_url} broke: {type(error).__name__}: {error}".rstrip(": "))


def _trusting(ca_cert: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_cert)
    except OSError as error:  # ssl's errors are OSErrors
        why = "it holds no certificate in PEM format" if isinstance(error, ssl.SSLError) else error.strerror
        raise ApiError(f"--ca-cert {ca_cert} can't be used: {why}") from error


def _chunk(event: bytes) -> dict[str, Any]:
    try:
        chunk = json.loads(event)
    except ValueError as error:
        raise ApiError("the server streams something that is not JSON") from error
    if not isinstance(chunk, dict):
        raise ApiError("the server streams something that is not a JSON object")
    if "error" in chunk:
        raise ApiError(f"the server breaks off: {_reason(event.decode('utf-8', 'replace'))}")
    return chunk


def _reason(body: str) -> str:
    """The message in an error's body, whatever its shape."""
    try:
        content = json.loads(body)
    except ValueError:
        return body.strip()[:200]
    error = content.get("error", content) if isinstance(content, dict) else content
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return str(error)
