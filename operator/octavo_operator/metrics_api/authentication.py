"""Authenticates a request: by the front proxy's client certificate and headers, or by a reviewed bearer token.

As an extension API server has to do it: the proxy is trusted by the ConfigMap `extension-apiserver-authentication`,
which the API server keeps, and its headers are ignored without its certificate.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from octavo_operator.api.resources import TOKEN_REVIEWS
from octavo_operator.cluster.client import Cluster, Object

CONFIG_NAMESPACE, CONFIG_NAME = "kube-system", "extension-apiserver-authentication"
TOKEN_S = 10.0
TOKENS = 1024
AUTHENTICATED, ANONYMOUS = "system:authenticated", "system:anonymous"


@dataclass(frozen=True, slots=True)
class User:
    """An authenticated client."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class FrontProxy:
    """The authority to trust and the headers that name the user. Without an authority no request is trusted."""

    authority: str = ""  # PEM
    names: tuple[str, ...] = ()  # common names of its certificate; none: any
    user_headers: tuple[str, ...] = ("X-Remote-User",)
    uid_headers: tuple[str, ...] = ("X-Remote-Uid",)
    group_headers: tuple[str, ...] = ("X-Remote-Group",)
    extra_prefixes: tuple[str, ...] = ("X-Remote-Extra-",)


def front_proxy(config: Object | None) -> FrontProxy:
    """Read the front proxy's trust from the ConfigMap."""
    data: Mapping[str, str] = (config or {}).get("data") or {}
    usual = FrontProxy()

    def listed(key: str, otherwise: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(str(each) for each in json.loads(data[key]))
        except (KeyError, ValueError, TypeError):
            return otherwise

    return FrontProxy(
        authority=data.get("requestheader-client-ca-file", ""),
        names=listed("requestheader-allowed-names", ()),
        user_headers=listed("requestheader-username-headers", usual.user_headers),
        uid_headers=listed("requestheader-uid-headers", usual.uid_headers),
        group_headers=listed("requestheader-group-headers", usual.group_headers),
        extra_prefixes=listed("requestheader-extra-headers-prefix", usual.extra_prefixes),
    )


class Authenticator:
    """`proxy` may be replaced at any time."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._tokens: dict[bytes, tuple[float, User | None]] = {}
        self.proxy = FrontProxy()

    async def user_of(self, request: web.Request) -> User | None:
        """The user of a request; None without proof. Raises ApiError or UnreachableError where a token can't be reviewed."""
        user = self._by_proxy(request)
        if user is None:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            user = await self._by_token(token.strip()) if scheme.lower() == "bearer" and token else None
        if user is None or user.name == ANONYMOUS or AUTHENTICATED in user.groups:
            return user
        return User(user.name, (*user.groups, AUTHENTICATED), user.uid, user.extra)

    def _by_proxy(self, request: web.Request) -> User | None:
        transport, proxy = request.transport, self.proxy
        certificate = None if transport is None else transport.get_extra_info("peercert")
        # That one is there means that the handshake has verified it against the proxy's authority.
        if not certificate or not proxy.authority or (proxy.names and _common_name(certificate) not in proxy.names):
            return None
        headers = request.headers
        name = next((headers[each] for each in proxy.user_headers if headers.get(each)), "")
        if not name:
            return None
        groups = tuple(value for each in proxy.group_headers for value in headers.getall(each, ()))
        extra: dict[str, tuple[str, ...]] = {}
        for header, value in headers.items():
            for prefix in proxy.extra_prefixes:
                if header.lower().startswith(prefix.lower()):
                    key = unquote(header[len(prefix) :]).lower()
                    extra[key] = (*extra.get(key, ()), value)
        uid = next((headers[each] for each in proxy.uid_headers if headers.get(each)), "")
        return User(name, groups, uid, extra)

    async def _by_token(self, token: str) -> User | None:
        key, now = hashlib.sha256(token.encode()).digest(), time.monotonic()
        known = self._tokens.get(key)
        if known is None or now - known[0] > TOKEN_S:
            if len(self._tokens) >= TOKENS:
                self._tokens.clear()
            review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
            answer = await self._cluster.create(TOKEN_REVIEWS, review)
            known = self._tokens[key] = (now, _reviewed(answer.get("status", {})))
        return known[1]


def _reviewed(status: Mapping[str, Any]) -> User | None:
    user = status.get("user") or {}
    if not status.get("authenticated") or not user.get("username"):
        return None
    extra = {key: tuple(values) for key, values in (user.get("extra") or {}).items()}
    return User(user["username"], tuple(user.get("groups") or ()), user.get("uid", ""), extra)


def _common_name(certificate: Mapping[str, Any]) -> str:
    fields = (pair for part in certificate.get("subject", ()) for pair in part)
    return next((str(value) for key, value in fields if key == "commonName"), "")
