"""The API over HTTP: every request but those for health is authenticated, authorized, and only then answered."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from octavo_operator.errors import OperatorError
from octavo_operator.metrics_api import documents
from octavo_operator.metrics_api.authentication import Authenticator
from octavo_operator.metrics_api.authorization import AccessRequest, Authorizer
from octavo_operator.metrics_api.catalog import METRICS
from octavo_operator.metrics_api.documents import GROUP, SERVICES, VERSIONS
from octavo_operator.metrics_api.engines import Engines
from octavo_operator.metrics_api.scraper import Scraper
from octavo_operator.metrics_api.selectors import SelectorError, parse
from octavo_operator.metrics_api.values import Snapshot, document, of_pod, of_pods, of_service

OPEN = frozenset({"/healthz", "/livez", "/readyz"})
ALL = "*"
REASONS = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 405: "MethodNotAllowed"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Api:
    """The parts that are needed to answer. `troubles` holds why this replica does not serve; empty where it does."""

    engines: Engines
    scraper: Scraper
    authenticator: Authenticator
    authorizer: Authorizer
    troubles: Callable[[], dict[str, str]]

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=1 << 16)
        one_of = f"{{version:{'|'.join(VERSIONS)}}}"
        for path, handler in {
            "/healthz": self._alive,
            "/livez": self._alive,
            "/readyz": self._ready,
            "/apis": self._fixed(documents.groups()),
            f"/apis/{GROUP}": self._fixed(documents.group()),
            "/openapi/v2": self._fixed(documents.openapi_v2()),
            "/openapi/v3": self._fixed(documents.openapi_v3()),
            **{f"/apis/{GROUP}/{each}": self._fixed(documents.resources(each)) for each in VERSIONS},
            **{f"/openapi/v3/apis/{GROUP}/{each}": self._fixed(documents.openapi_v3_of(each)) for each in VERSIONS},
            f"/apis/{GROUP}/{one_of}/namespaces/{{namespace}}/{{resource}}/{{name}}/{{metric}}": self._metric,
        }.items():
            app.router.add_get(path, handler)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.path in OPEN:
                return await handler(request)
            user = await self.authenticator.user_of(request)
            if user is None:
                return _status(401, "neither a front proxy that is trusted nor a valid bearer token says who asks")
            if why := await self.authorizer.refusal(user, AccessRequest(request.path, **request.match_info)):
                return _status(403, f"{user.name} may not get {request.path}: {why}")
            return await handler(request)
        except SelectorError as error:
            return _status(400, str(error))
        except web.HTTPException as error:
            return _status(error.status, f"{request.method} {request.path}: {error.reason}")
        except OperatorError as error:
            log.warning("a request could not be judged: %s", error)
            return _status(503, "the API server can't be asked who that is, or whether they may; try again")

    async def _alive(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _ready(self, _: web.Request) -> web.Response:
        troubles = self.troubles()
        return web.json_response({"troubles": troubles}, status=503 if troubles else 200)

    def _fixed(self, what: documents.Document) -> Handler:
        async def handler(_: web.Request) -> web.Response:
            return web.json_response(what)

        return handler

    async def _metric(self, request: web.Request) -> web.Response:
        asked = request.match_info
        namespace, resource, name = asked["namespace"], asked["resource"], asked["name"]
        metric = METRICS.get(asked["metric"])
        if metric is None:
            return _status(404, f"there is no metric {asked['metric']}; there are {', '.join(METRICS)}")
        chosen = parse(request.query.get("metricLabelSelector", ""))
        wanted = parse(request.query.get("labelSelector", ""))
        now = time.monotonic()
        known = Snapshot(self.engines.known.values() if self.engines.are_known(now) else (), self.scraper.series, now)
        if resource == "pods" and name == ALL:
            # Empty rather than 404 where no pod has a value: the metric is known. Autoscalers hold in either case.
            return web.json_response(
                document(asked["version"], metric, of_pods(known, namespace, wanted, metric, chosen))
            )
        if resource == "pods":
            rows = of_pod(known, namespace, name, metric, chosen)
        elif resource == SERVICES and name != ALL:
            rows = of_service(known, namespace, name, metric, chosen)
        else:
            return _status(404, f"metrics are of pods, and of {SERVICES} by name")
        if not rows:
            why = "it still loads, ends, does not answer, or is no engine of Octavo's"
            return _status(404, f"{resource} {namespace}/{name} has no value of {metric.name} now: {why}")
        return web.json_response(document(asked["version"], metric, rows))


def _status(code: int, message: str) -> web.Response:
    """Kubernetes' own form of an error."""
    body: dict[str, Any] = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": REASONS.get(code, "ServiceUnavailable"),
        "code": code,
    }
    return web.json_response(body, status=code)
