"""A small JSON client of an API server: one method a verb, from the standard library.

Objects are plain dicts. What is addressed follows from `apiVersion`, `kind` and `metadata` of an object, or by an
`(apiVersion, kind)` pair and a name; the plural is looked up by discovery, once for each group and version.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
Object = dict[str, Any]
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"
PATIENCE = 3


class ApiError(Exception):
    """The API server said no. `status` is the HTTP status, `reason` Kubernetes' word for it, `body` the whole answer."""

    def __init__(self, method: str, path: str, status: int, body: Any) -> None:
        self.status = status
        self.body = body
        self.reason = body.get("reason", "") if isinstance(body, dict) else ""
        message = body.get("message", "") if isinstance(body, dict) else str(body)
        super().__init__(f"{method} {path}: {status} {self.reason}: {message}")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of an API server, and the credentials for it: its https URL, the CA's file, and a bearer token or a
    client certificate's file.
    """

    server: str
    authority: str | None = None
    token: str = ""
    client_certificate: str | None = None
    client_key: str | None = None
    skip_verification: bool = False


class ApiClient:
    """Talks to one API server as one user. Every thread has a connection of its own."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._address = urllib.parse.urlsplit(endpoint.server)
        self._plurals: dict[str, dict[str, tuple[str, bool]]] = {}
        self._local = threading.local()
        self._connections: list[http.client.HTTPSConnection] = []

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        timeout: float = 30.0,
        **query: Any,
    ) -> Any:
        """The parsed answer. Raises ApiError for a status of 400 and above, OSError where there is no server."""
        data = None if body is None else json.dumps(body).encode()
        url = self._url(path, query)
        connection = self._connection(timeout)
        kept_open = connection.sock is not None
        try:
            try:
                response, text = _exchange(connection, method, url, data, self._headers(content_type))
            except (ConnectionError, ssl.SSLEOFError):
                if not kept_open:
                    raise
                connection.close()  # the server has closed it meanwhile, or is another process now
                response, text = _exchange(connection, method, url, data, self._headers(content_type))
        except (OSError, http.client.HTTPException):
            connection.close()  # the next request opens it again
            raise
        answer = json.loads(text) if "json" in (response.getheader("Content-Type") or "") else text
        if response.status >= 400:
            raise ApiError(method, url, response.status, answer)
        return answer

    def get(self, api_version: str, kind: str, name: str, namespace: str = "", **query: Any) -> Object:
        answer: Object = self.request("GET", self.path(api_version, kind, namespace, name), **query)
        return answer

    def find(self, api_version: str, kind: str, name: str, namespace: str = "") -> Object | None:
        """The object, or None where there is none."""
        try:
            return self.get(api_version, kind, name, namespace)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def list(self, api_version: str, kind: str, namespace: str = "", selector: str = "", **query: Any) -> list[Object]:
        if selector:
            query["labelSelector"] = selector
        items: list[Object] = self.request("GET", self.path(api_version, kind, namespace), **query)["items"]
        return [{"apiVersion": api_version, "kind": kind, **item} for item in items]

    def create(self, thing: Object, **query: Any) -> Object:
        answer: Object = self.request("POST", self._collection_of(thing), thing, **query)
        return answer

    def apply(self, thing: Object, manager: str = "tests", *, force: bool = True, **query: Any) -> Object:
        """Server-side apply."""
        path = f"{self._collection_of(thing)}/{thing['metadata']['name']}"
        query |= {"fieldManager": manager, "force": str(force).lower()}
        answer: Object = self.request("PATCH", path, thing, content_type=APPLY, **query)
        return answer

    def replace(self, thing: Object, subresource: str = "", **query: Any) -> Object:
        path = f"{self._collection_of(thing)}/{thing['metadata']['name']}" + (f"/{subresource}" if subresource else "")
        answer: Object = self.request("PUT", path, thing, **query)
        return answer

    def patch(
        self,
        api_version: str,
        kind: str,
        name: str,
        namespace: str,
        body: Any,
        *,
        subresource: str = "",
        content_type: str = MERGE,
        **query: Any,
    ) -> Object:
        """A patch; a JSON merge patch unless `content_type` says otherwise."""
        path = self.path(api_version, kind, namespace, name) + (f"/{subresource}" if subresource else "")
        answer: Object = self.request("PATCH", path, body, content_type=content_type, **query)
        return answer

    def delete(self, api_version: str, kind: str, name: str, namespace: str = "", **options: Any) -> None:
        """Delete it, if it is there. `options` are DeleteOptions, as `gracePeriodSeconds=0`."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", **options}
        try:
            self.request("DELETE", self.path(api_version, kind, namespace, name), body)
        except ApiError as error:
            if error.status != 404:
                raise

    def events(self, namespace: str, about: str = "") -> list[Object]:
        """The core Events of a namespace, by default of every object in it."""
        selector = {"fieldSelector": f"involvedObject.name={about}"} if about else {}
        return self.list("v1", "Event", namespace, **selector)

    @contextmanager
    def watching(
        self, api_version: str, kind: str, namespace: str = "", *, timeout: float = 30.0, **query: Any
    ) -> Iterator[Iterator[Object]]:
        """An iterator over a watch's events, `{"type": …, "object": …}`, on a connection of its own."""
        connection = self._connect(timeout)
        try:
            query = {"watch": "true", **query}
            url = self._url(self.path(api_version, kind, namespace), query)
            connection.request("GET", url, headers=self._headers("application/json"))
            response = connection.getresponse()
            if response.status >= 400:
                raise ApiError("WATCH", url, response.status, json.loads(response.read()))
            yield _lines(response)
        finally:
            connection.close()

    def path(self, api_version: str, kind: str, namespace: str = "", name: str = "") -> str:
        """The address of a collection, or of one object. Raises ApiError where the server has no such kind."""
        plural, namespaced = self._plural(api_version, kind)
        base = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
        parts = [
            base,
            *(["namespaces", namespace] if namespaced and namespace else []),
            plural,
            *([name] if name else []),
        ]
        return "/".join(parts)

    def _collection_of(self, thing: Object) -> str:
        return self.path(thing["apiVersion"], thing["kind"], thing["metadata"].get("namespace", ""))

    def _plural(self, api_version: str, kind: str) -> tuple[str, bool]:
        known = self._plurals.get(api_version, {})
        if kind not in known:
            base = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
            resources = self.request("GET", base)["resources"]
            known = {r["kind"]: (r["name"], r["namespaced"]) for r in resources if "/" not in r["name"]}
            self._plurals[api_version] = known
        if kind not in known:
            raise ApiError("GET", api_version, 404, {"reason": "NotFound", "message": f"{api_version} has no {kind}"})
        return known[kind]

    def _url(self, path: str, query: Mapping[str, Any]) -> str:
        return f"{path}?{urllib.parse.urlencode(query)}" if query else path

    def _headers(self, content_type: str) -> dict[str, str]:
        token = {"Authorization": f"Bearer {self.endpoint.token}"} if self.endpoint.token else {}
        return {"Accept": "application/json", "Content-Type": content_type, **token}

    def _connection(self, timeout: float) -> http.client.HTTPSConnection:
        connection: http.client.HTTPSConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect(timeout)
            self._connections.append(connection)
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        return connection

    def _connect(self, timeout: float) -> http.client.HTTPSConnection:
        address = self._address
        return http.client.HTTPSConnection(address.netloc, timeout=timeout, context=tls_context(self.endpoint))

    def close(self) -> None:
        """Close every thread's connection; a later request opens its own again."""
        for connection in self._connections:
            connection.close()


def _exchange(
    connection: http.client.HTTPSConnection, method: str, url: str, data: bytes | None, headers: Mapping[str, str]
) -> tuple[http.client.HTTPResponse, str]:
    connection.request(method, url, data, dict(headers))
    response = connection.getresponse()
    return response, response.read().decode()


def _lines(response: http.client.HTTPResponse) -> Iterator[Object]:
    rest = b""
    while part := response.read1(1 << 16):  # unlike readline it does not take a broken connection for the end
        *lines, rest = (rest + part).split(b"\n")
        yield from map(json.loads, lines)


def tls_context(endpoint: Endpoint) -> ssl.SSLContext:
    """Trusts the endpoint's authority alone, and carries its client certificate."""
    context = ssl.create_default_context(cafile=endpoint.authority)
    if endpoint.skip_verification:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if endpoint.client_certificate:
        context.load_cert_chain(endpoint.client_certificate, endpoint.client_key)
    return context


def until(ask: Callable[[], T], seconds: float = 20.0, otherwise: str = "", pause: float = 0.05) -> T:
    """Ask until the answer is true, and give it. `otherwise` says what was waited for; with the last answer.

    `seconds` are ample on a quiet machine, and PATIENCE times as many on one that does something else: what has to be
    quick is to be measured.
    """
    seconds *= PATIENCE
    end = time.monotonic() + seconds
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"{otherwise or 'what was waited for did not happen'} in {seconds:g} s: {answer!r}")
        time.sleep(pause)
