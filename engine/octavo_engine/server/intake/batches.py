"""The body that makes a batch, and the queries of lists."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, TypeVar

from aiohttp import web
from pydantic import BaseModel, Field

from octavo_engine.batches.rows import PATHS
from octavo_engine.errors import RequestError
from octavo_engine.server.intake.limits import MAX_METADATA
from octavo_engine.server.intake.protocol import RequestBody

HOURS = {"h": 1, "d": 24}
MAX_HOURS = 14 * 24
MAX_DIGITS = 9  # of a `limit`
_WINDOW = re.compile(r"([1-9][0-9]{0,3})([hd])")
Kept = TypeVar("Kept")


class ExpiresAfter(BaseModel):
    """The time after which a file is deleted."""

    anchor: str
    seconds: int


class BatchBody(RequestBody):
    """A batch to run."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None = None
    output_expires_after: ExpiresAfter | None = None

    def check(self) -> None:
        """Raise RequestError for an endpoint or for metadata that can't be."""
        if self.endpoint not in PATHS:
            raise RequestError(f"endpoint is {self.endpoint[:80]!r}; it is one of {', '.join(PATHS)}", "endpoint")
        if self.metadata is not None and len(self.metadata) > MAX_METADATA:
            raise RequestError(
                f"metadata has {len(self.metadata)} entries; at most {MAX_METADATA} are kept", "metadata"
            )

    @property
    def window_seconds(self) -> int:
        """The time that the batch has. Raises RequestError."""
        match = _WINDOW.fullmatch(self.completion_window)
        hours = int(match[1]) * HOURS[match[2]] if match is not None else 0
        if not 1 <= hours <= MAX_HOURS:
            raise RequestError(
                f"completion_window is {self.completion_window[:80]!r}; it is 24h, as OpenAI has it, or another time "
                f"of 1h to {MAX_HOURS // 24}d",
                "completion_window",
            )
        return hours * 3600


def paged(request: web.Request, kept: Mapping[str, Kept], *, limit: int, most: int) -> tuple[list[str], bool]:
    """The ids of the part of a list that a query asks for (`after`, `limit`, `order`), and whether more follow; newest first.

    Raises:
        RequestError: a part of the query is wrong.
    """
    query = request.query
    text = query.get("limit", str(limit))
    if not text.isascii() or not text.isdigit() or len(text) > MAX_DIGITS or not 1 <= int(text) <= most:
        raise RequestError(f"limit is {text[:80]!r}; it is a number of 1 to {most}", "limit")
    order = query.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise RequestError(f"order is {order[:80]!r}; it is asc or desc", "order")
    ids = sorted(kept, reverse=order == "desc")
    after = query.get("after")
    if after is not None:
        if after not in kept:
            raise RequestError(f"after is {after[:80]!r}, which is none of the list: begin again without it", "after")
        ids = ids[ids.index(after) + 1 :]
    return ids[: int(text)], len(ids) > int(text)
