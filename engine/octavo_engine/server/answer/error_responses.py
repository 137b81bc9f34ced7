"""Errors in the OpenAI shape: whatever is raised becomes a status and a body; nothing that is raised ends the server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler

from octavo_engine.core_client.pooling import PoolingError
from octavo_engine.errors import EngineDeadError, QueueFullError, RequestError
from octavo_engine.server.answer.messages import messages_error
from octavo_engine.server.answer.responses import Error, ErrorBody
from octavo_engine.server.answer.unserved_paths import not_found
from octavo_engine.server.generation import GenerationError

logger = logging.getLogger(__name__)

TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    408: "RequestTimeoutError",
    413: "RequestTooLargeError",
    414: "RequestTooLargeError",
    415: "UnsupportedMediaTypeError",
    417: "ExpectationFailedError",
    429: "RateLimitError",
    431: "RequestTooLargeError",
    503: "ServiceUnavailableError",
}
MESSAGES = "/v1/messages"
_encode = msgspec.json.encode


def status_of(error: Exception) -> int:
    """The HTTP status of `error`."""
    if isinstance(error, RequestError):
        return error.status
    if isinstance(error, EngineDeadError):
        return 503
    return 500


def status_and_message(error: Exception) -> tuple[int, str]:
    """The HTTP status and the sentence for `error`; for a bug it reveals no more than that there is one."""
    known = isinstance(error, RequestError | EngineDeadError | GenerationError | PoolingError)
    return status_of(error), str(error) if known else "internal error; the server's log has the traceback"


def error_body(error: Exception) -> Error:
    """The body for `error`, in OpenAI's shape."""
    status, message = status_and_message(error)
    param = error.param if isinstance(error, RequestError) else None
    code = error.code if isinstance(error, RequestError) and error.code else status
    own = error.type_ if isinstance(error, RequestError) else None
    return Error(ErrorBody(message, own or TYPES.get(status, "InternalServerError"), param, code))


def error_response(error: Exception, headers: Mapping[str, str] | None = None, *, path: str = "") -> web.Response:
    """A whole answer for `error`, in the shape of the API that `path` belongs to."""
    status = status_of(error)
    all_headers = dict(headers or {})
    if isinstance(error, QueueFullError):
        all_headers["Retry-After"] = str(error.retry_after)
    elif status == 503:
        all_headers.setdefault("Retry-After", "1")
    if status == 401:
        all_headers["WWW-Authenticate"] = "Bearer"
    body = messages_error(*status_and_message(error)) if MESSAGES in path else error_body(error)
    return json_response(body, status=status, headers=all_headers)


def json_response(body: msgspec.Struct, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """`body` as JSON."""
    return web.Response(body=_encode(body), status=status, headers=headers, content_type="application/json")


def json_list(items: Sequence[msgspec.Struct]) -> web.Response:
    """`items` as a JSON list."""
    return web.Response(body=_encode(items), content_type="application/json")


async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Around all else: every error leaves in the OpenAI shape."""
    try:
        return await handler(request)
    except (RequestError, EngineDeadError, GenerationError, PoolingError) as error:
        response = error_response(error, path=request.path)
        if not request.content.is_eof():
            response.force_close()  # the rest of its body would come first
        return response
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods - {"OPTIONS"}))
        refusal = RequestError(f"{request.method} is not possible here; use {allowed}", status=405)
        return error_response(refusal, {"Allow": allowed}, path=request.path)
    except web.HTTPNotFound:
        refusal = RequestError(not_found(request.method, request.path), status=404)
        return error_response(refusal, path=request.path)
    except web.HTTPExpectationFailed:
        return error_response(
            RequestError("Expect: only 100-continue is understood; leave it out", status=417), path=request.path
        )
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return error_response(RequestError(error.reason, status=error.status), path=request.path)
    except (web.RequestPayloadError, HttpProcessingError):
        response = error_response(
            RequestError("the body breaks off, or its chunks are malformed: send it again"), path=request.path
        )
        response.force_close()  # where the next request would begin is not known
        request.content.feed_eof()  # so that aiohttp does not look for more of it
        return response
    except (asyncio.CancelledError, ConnectionResetError):
        raise  # the client has gone away
    except Exception as error:
        logger.exception("a bug while answering %s %s", request.method, request.path)
        return error_response(error, path=request.path)
