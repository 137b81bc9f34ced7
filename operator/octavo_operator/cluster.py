"""The only module that talks to the API server. Every call has a deadline; nothing is cached.

Knows paths, verbs and content types, not what an LLMService is. `write_s` tells before each write how long it may
take: a leader's writes end before its Lease can be another's, and one that has lost it writes nothing more.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import aiohttp

from octavo_operator.connection import Connection
from octavo_operator.errors import ApiError, NotLeadingError, UnreachableError
from octavo_operator.labels import FIELD_MANAGER
from octavo_operator.resources import Resource

Object = dict[str, Any]
READ_S = 15.0
LEASE_CALL_S = 4.0  # for whoever reads and renews the Lease: one that waits longer is lost
APPLY = "application/apply-patch+yaml"  # JSON is YAML
PAGE = 500
WATCH_S = 60  # then the server ends a watch, and it is asked for anew: a dead one is noticed
LINE = 4 << 20  # of a watch: an object may have 1.5 MiB
Name = tuple[str, str]
"""Namespace and name."""


class Cluster:
    """A session with the API server; close it. All methods raise ApiError or UnreachableError."""

    def __init__(
        self, connection: Connection, *, write_s: Callable[[], float] = lambda: LEASE_CALL_S, read_s: float = READ_S
    ) -> None:
        self._connection = connection
        self._write_s = write_s
        self._read_s = read_s
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=connection.tls(), limit=64, keepalive_timeout=30),
            headers={"User-Agent": "octavo-operator"},
            json_serialize=json.dumps,
        )

    async def close(self) -> None:
        await self._session.close()

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
        query = {"labelSelector": selector, "fieldSelector": fields}
        query = {"limit": str(PAGE)} | {key: value for key, value in query.items() if value}
        items: list[Object] = []
        while True:
            page = await self._request("GET", resource.path(namespace), query=query)
            items += page["items"]
            if not (rest := page["metadata"].get("continue")):
                break
            query["continue"] = rest
        return [{"apiVersion": resource.api_version, "kind": resource.kind, **item} for item in items]

    async def serves(self, resource: Resource) -> bool:
        """Whether the API server knows the kind, by discovery."""
        try:
            known = await self._request("GET", f"/apis/{resource.api_version}")
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return any(each["name"] == resource.plural for each in known["resources"])

    async def follow(self, resource: Resource, selector: str) -> AsyncIterator[Mapping[Name, Object]]:
        """All objects by namespace and name: as they are now, again after each change, and at least once a minute.

        Never ends by itself; where it raises, begin anew.
        """
        query = {"labelSelector": selector} if selector else {}
        while True:
            page = await self._request("GET", resource.path(), query=query)
            known = {_name(item): item for item in page["items"]}
            version: str | None = page["metadata"]["resourceVersion"]
            while version is not None:
                yield known
                more = {"watch": "true", "resourceVersion": version, "timeoutSeconds": str(WATCH_S)}
                async for event in self._events(resource.path(), {**query, **more, "allowWatchBookmarks": "true"}):
                    if event["type"] == "ERROR":
                        if event["object"].get("code") != 410:
                            raise UnreachableError(f"the watch of {resource.plural} fails: {event['object']}")
                        version = None  # too old to go on from
                        break
                    item = event["object"]
                    version = item["metadata"]["resourceVersion"]
                    if event["type"] == "DELETED":
                        known.pop(_name(item), None)
                    elif event["type"] != "BOOKMARK":
                        known[_name(item)] = item
                    yield known

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
        return await self._write("PATCH", path, body, query=query, content_type=APPLY)

    async def create(self, resource: Resource, body: Object) -> Object:
        return await self._write("POST", resource.path(body.get("metadata", {}).get("namespace")), body)

    async def replace(self, resource: Resource, body: Object) -> Object:
        """Only if it still has the resourceVersion of `body`."""
        path = resource.path(body["metadata"]["namespace"], body["metadata"]["name"])
        return await self._write("PUT", path, body)

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
            await self._write("DELETE", resource.path(metadata.get("namespace"), metadata["name"]), body)
        except ApiError as error:
            if error.status != 404:
                raise

    async def _write(self, method: str, path: str, body: Object, **more: Any) -> Object:
        if (seconds := self._write_s()) <= 0:
            raise NotLeadingError("another replica may hold the Lease by now: nothing is written")
        return await self._request(method, path, body, timeout=seconds, **more)

    async def _request(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        timeout: float | None = None,
    ) -> Object:
        timeout = self._read_s if timeout is None else timeout
        headers = {"Accept": "application/json", "Content-Type": content_type, **self._connection.headers()}
        try:
            async with self._session.request(
                method,
                self._connection.server + path,
                params=query,
                data=None if body is None else json.dumps(body).encode(),
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=timeout),
                allow_redirects=False,
            ) as response:
                text = await response.text()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            why = str(error) or "no answer in time"
            raise UnreachableError(f"the API server does not answer {method} {path}: {why}") from error
        answer = _parsed(text)
        if response.status >= 400:
            raise ApiError(method, path, response.status, answer)
        return answer

    async def _events(self, path: str, query: Mapping[str, str]) -> AsyncIterator[Object]:
        """Of one watch, until the server ends it."""
        try:
            async with self._session.get(
                self._connection.server + path,
                params=query,
                headers={"Accept": "application/json", **self._connection.headers()},
                timeout=aiohttp.ClientTimeout(sock_connect=self._read_s, sock_read=WATCH_S + self._read_s),
                read_bufsize=LINE,
                allow_redirects=False,
            ) as response:
                if response.status >= 400:
                    raise ApiError("WATCH", path, response.status, _parsed(await response.text()))
                async for line in response.content:
                    yield json.loads(line)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise UnreachableError(f"the watch of {path} broke off: {str(error) or 'silent for too long'}") from error


def _name(item: Object) -> Name:
    return item["metadata"].get("namespace", ""), item["metadata"].get("name", "")


def _parsed(text: str) -> Object:
    try:
        answer = json.loads(text)
    except ValueError:
        return {"message": text.strip()}
    return answer if isinstance(answer, dict) else {"message": text.strip()}
