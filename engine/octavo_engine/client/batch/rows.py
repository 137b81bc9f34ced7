"""The rows of a batch: one request a line, in OpenAI's form, and the lines of the answers."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from octavo_engine.errors import OctavoError

PATHS = (
    *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"),
    *("/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank"),
)


class BatchError(OctavoError):
    """A batch can't be run as it is; the message names the line."""


class Row(msgspec.Struct, frozen=True):
    """One request."""

    custom_id: str
    url: str
    body: dict[str, Any]
    method: str = "POST"

    @property
    def problem(self) -> str | None:
        """The reason why the row can't be sent to a server; None if it can."""
        if self.method != "POST" or self.url not in PATHS:
            return f"{self.method[:8]} {self.url[:80]} is not served in batches; use POST and one of {', '.join(PATHS)}"
        return "a batch has no streams; leave stream out" if self.body.get("stream") else None


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, in order; empty lines are passed over.

    Raises:
        BatchError: the file can't be read, or a line is no request, or has another's `custom_id`.
    """
    seen: set[str] = set()
    decoder = msgspec.json.Decoder(Row)
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                yield _checked(decoder, line, seen, f"{path}, line {number}")
    except OSError as error:
        raise BatchError(f"{path}: {error.strerror}") from error


def _checked(decoder: msgspec.json.Decoder[Row], line: bytes, seen: set[str], where: str) -> Row:
    try:
        row = decoder.decode(line)
    except msgspec.MsgspecError as error:
        raise BatchError(f"{where} is no request of a batch: {error}") from error
    if row.custom_id in seen:
        raise BatchError(f"{where}: the custom_id {row.custom_id[:80]!r} is that of an earlier line; give each its own")
    seen.add(row.custom_id)
    return row


def answered(path: Path) -> set[str]:
    """The ids of the rows that an earlier run has answered. A line that it could not finish is cut off.

    Raises:
        BatchError: the file holds something else.
    """
    if not path.exists():
        return set()
    found: set[str] = set()
    with path.open("r+b") as file:
        end = 0
        for line in file:
            if not line.endswith(b"\n"):
                file.truncate(end)
                break
            end += len(line)
            try:
                found.add(json.loads(line)["custom_id"])
            except (ValueError, TypeError, KeyError):
                raise BatchError(f"{path} holds something else than answers of a batch: name another file") from None
    return found


def answer_line(row: Row, status: int, body: Any) -> bytes:
    """The line of one answer; what is refused has its error beside the status."""
    good = status < 400
    response = {"status_code": status, "request_id": f"batch-{uuid.uuid4().hex}", "body": body if good else None}
    answer = {"id": f"octavo-{uuid.uuid4().hex}", "custom_id": row.custom_id, "response": response}
    return json.dumps(answer | {"error": None if good else body}).encode() + b"\n"


def append(file: int, line: bytes) -> None:
    """Write a whole line to the descriptor `file`."""
    while line:
        line = line[os.write(file, line) :]
