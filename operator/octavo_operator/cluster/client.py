"""The only module that talks to the API server. Every call has a deadline; nothing is cached.

Owns paths, verbs and content types; independent of LLMServices. `write_s` gives before each write how long it may
take: a leader's writes end before its Lease can be another's, and one that has lost it writes nothing more.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

from octavo_operator.api.labels import FIELD_MANAGER
from octavo_operator.api.resources import Resource
from octavo_operator.cluster.connection import ClientCredentials, Connection
from octavo_operator.errors import ApiError, NotLeadingError, UnreachableError

Object = dict[str, Any]
READ_S = 15.0
LEASE_CALL_S = 4.0  # for reading and renewing the Lease: a longer wait would lose it
APPLY = "application/apply-patch+yaml"  # JSON is YAML
METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
PAGE = 100  # objects: 100 pods are a megabyte of JSON, and ten times that once parsed
WATCH_S = 20  # then the server ends a watch, and it is asked for again: one that has fallen silent is noticed
SILENT_S = 4.0  # beyond it, nothing is waited for any longer
LINE = 4 << 20  # of a watch: an object may have 1.5 MiB
METHODS = {"apply": "PATCH", "create": "POST", "update": "PUT", "delete": "DELETE"}
BUSY = {429, 503}  # with Retry-After, the server requests a pause rather than refusing
Name = tuple[str, str]
"""Namespace and name."""


class Cluster:
    """A session with the API server; close it. All methods raise ApiError or UnreachableError, and nothing else.

    `on_write` is called with kind and verb (apply, create, update, delete) after each write that succeeded.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        write_s: Callable[[], float] = lambda: LEASE_CALL_S,
        read_s: float = READ_S,
        on_write: Callable[[str, str], None] = lambda _kind, _verb: None,
    ) -> None:
        self._credentials = ClientCredentials(connection)
        self._server = connection.server
        self._write_s = write_s
        self._read_s = read_s
        self._on_write = on_write
        self._skew = timedelta()
        self._tls = connection.tls()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls, limit=64, keepalive_timeout=30),
            headers={"User-Agent": "octavo-operator"},
            json_serialize=json.dumps,
        )

    async def close(self) -> None:
        await self._session.close()

    def now(self) -> datetime:
        """The API server's time, as its last answer gave it: the times in objects are by its clock, not by ours."""
        return datetime.now(UTC) + self._skew

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object | None:
        """The object as it is now; None where there is none."""
        try:
            return await self._request("GET", resource.path(namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def list(
        self, resource: Resource, namespace: str | None = None, selector: str = "", fields: str = ""
    ) -> list[Object]:
        """All objects as they are now, with apiVersion and kind, which lists leave out."""
        found: list[Object] = []
        async for items, _ in self.pages(resource, namespace, selector=selector, fields=fields):
            found += ({"apiVersion": resource.api_version, "kind": resource.kind, **item} for item in items)
        return found

    async def pages(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        selector: str = "",
        fields: str = "",
        metadata_alone: bool = False,
    ) -> AsyncIterator[tuple[Sequence[Object], str]]:
        """All objects, in parts, each with the version from which a watch goes on after the last."""
        query = {"limit": str(PAGE)} | _query(selector, fields)
        accept = METADATA if metadata_alone else "application/json"
        while True:
            page = await self._request("GET", resource.path(namespace), query=query, accept=accept)
            try:
                items, version = page["items"] or (), str(page["metadata"]["resourceVersion"])
                rest = page["metadata"].get("continue")
            except (KeyError, TypeError) as error:
                raise UnreachableError(f"{self._server} answers no list of {resource.plural}: {page}") from error
            yield items, version
            if not rest:
                return
            query["continue"] = rest

    async def serves(self, resource: Resource) -> bool:
        """True if the API server has the kind, by discovery."""
        try:
            known = await self._request("GET", f"/apis/{resource.api_version}")
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return any(each["name"] == resource.plural for each in known["resources"])

    async def watch(
        self, resource: Resource, version: str, *, selector: str = "", fields: str = ""
    ) -> AsyncGenerator[Object]:
        """Events since a version, until the server ends the watch after `WATCH_S`; the first, OPENED, has no object.

        Raises ApiError where the watch is refused (410: the version is too old), UnreachableError where it breaks off.
        """
        query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": str(WATCH_S)} | _query(selector, fields)
        async with aclosing(self._events(resource.path(), query | {"allowWatchBookmarks": "true"})) as events:
            async for event in events:
                yield event

    async def apply(
        self,
        resource: Resource,
        body: Object,
        *,
        manager: str = FIELD_MANAGER,
        subresource: str = "",
        force: bool = True,
    ) -> Object:
        """Server-side apply, by default with force: what may not be taken from others has been left out before."""
        metadata = body["metadata"]
        path = resource.path(metadata.get("namespace"), metadata["name"]) + (f"/{subresource}" if subresource else "")
        query = {"fieldManager": manager, "force": str(force).lower()}
        return await self._write("apply", resource, path, body, query=query, content_type=APPLY)

    async def create(self, resource: Resource, body: Object) -> Object:
        return await self._write("create", resource, resource.path(body.get("metadata", {}).get("namespace")), body)

    async def replace(self, resource: Resource, body: Object) -> Object:
        """Replace an object, only if it still has the resourceVersion of `body`."""
        path = resource.path(body["metadata"]["namespace"], body["metadata"]["name"])
        return await self._write("update", resource, path, body)

    async def delete(self, resource: Resource, live: Object) -> None:
        """This very object, if it is still as it was seen; its own children follow by themselves."""
        metadata = live["metadata"]
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]},
        }
        try:
            await self._write("delete", resource, resource.path(metadata.get("namespace"), metadata["name"]), body)
        except ApiError as error:
            if error.status != 404:
                raise

    async def _write(self, verb: str, resource: Resource, path: str, body: Object, **more: Any) -> Object:
        if (seconds := self._write_s()) <= 0:
            raise NotLeadingError("another replica may hold the Lease by now: nothing is written")
        answer = await self._request(METHODS[verb], path, body, timeout=seconds, **more)
        self._on_write(resource.kind, verb)
        return answer

    async def _request(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout: float | None = None,
    ) -> Object:
        """Return one answer within the deadline; honour a busy server's Retry-After and renew an expired credential."""
        deadline = time.monotonic() + (self._read_s if timeout is None else timeout)
        data = None if body is None else json.dumps(body).encode()
        headers = {"Accept": accept, "Content-Type": content_type}
        renewed = False
        while True:
            status, answer, pause = await self._exchange(method, path, query, data, headers, deadline)
            if status < 400:
                return answer
            if status == 401 and not renewed and await self._credentials.renew(self._tls):
                renewed = True
            elif status in BUSY and pause is not None and time.monotonic() + pause < deadline:
                await asyncio.sleep(pause * random.uniform(1.0, 1.2))
            else:
                raise ApiError(method, path, status, answer)

    async def _exchange(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        data: bytes | None,
        headers: Mapping[str, str],
        deadline: float,
    ) -> tuple[int, Object, float | None]:
        """Status, answer, and the seconds of Retry-After."""
        try:
            async with self._session.request(
                method,
                self._server + path,
                params=query,
                data=data,
                headers={**headers, **self._credentials.headers()},
                timeout=aiohttp.ClientTimeout(total=max(0.001, deadline - time.monotonic())),
                allow_redirects=False,
            ) as response:
                text = await response.text()
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            why = str(error) or "no answer in time"
            raise UnreachableError(f"the API server does not answer {method} {path}: {why}") from error
        self._note_time(response.headers.get("Date"))
        answer = _parsed(text)
        if answer is None and response.status < 400:
            raise UnreachableError(f"{self._server} is no API server: it answers {method} {path} with {text[:80]!r}")
        return response.status, answer or {"message": text.strip()}, _seconds(response.headers.get("Retry-After"))

    def _note_time(self, date: str | None) -> None:
        """Whole seconds, so less than two apart counts as the same."""
        if date is None:
            return
        try:
            skew = parsedate_to_datetime(date) - datetime.now(UTC)
        except (ValueError, TypeError):
            return
        self._skew = skew if abs(skew) >= timedelta(seconds=2) else timedelta()

    async def _events(self, path: str, query: Mapping[str, str]) -> AsyncGenerator[Object]:
        """Yield the events of one watch, until the server ends it."""
        try:
            async with self._session.get(
                self._server + path,
                params=query,
                headers={"Accept": "application/json", **self._credentials.headers()},
                timeout=aiohttp.ClientTimeout(
                    sock_connect=self._read_s, sock_read=WATCH_S + SILENT_S, total=WATCH_S + 2 * SILENT_S
                ),
                read_bufsize=LINE,
                allow_redirects=False,
            ) as response:
                if response.status >= 400:
                    answer = _parsed(await response.text()) or {}
                    if response.status == 401:
                        await self._credentials.renew(self._tls)
                    raise ApiError("WATCH", path, response.status, answer)
                yield {"type": "OPENED"}
                async for line in response.content:
                    yield json.loads(line)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise UnreachableError(f"the watch of {path} broke off: {str(error) or 'silent for too long'}") from error


def _query(selector: str, fields: str) -> dict[str, str]:
    return {key: value for key, value in (("labelSelector", selector), ("fieldSelector", fields)) if value}


def _seconds(retry_after: str | None) -> float | None:
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else None


def _parsed(text: str) -> Object | None:
    """The JSON object; None where it is none."""
    try:
        answer = json.loads(text)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None
