"""The rows of a batch: one request a line, in OpenAI's form, and the lines of the answers."""

from __future__ import annotations

import contextlib
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
    """A batch can't be run as it is; the message names the line. `code` is OpenAI's word for what is wrong."""

    def __init__(self, message: str, code: str = "invalid_request", line: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.line = line


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
        if self.url == "/v1/responses" and self.body.get("background"):
            return "a row is answered where it is; leave background out"
        return "a batch has no streams; leave stream out" if self.body.get("stream") else None


class RowReader:
    """Reads the lines of one file, and requires that each has a `custom_id` of its own."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._seen: set[str] = set()
        self._decoder = msgspec.json.Decoder(Row)

    def read(self, line: bytes, number: int) -> Row:
        """The row of the line with that number. Raises BatchError."""
        where = f"{self._name}, line {number}"
        try:
            row = self._decoder.decode(line)
        except msgspec.MsgspecError as error:
            raise BatchError(f"{where} is no request of a batch: {error}", "invalid_json_line", number) from error
        if row.custom_id in self._seen:
            raise BatchError(
                f"{where}: the custom_id {row.custom_id[:80]!r} is that of an earlier line; give each its own",
                "duplicate_custom_id",
                number,
            )
        self._seen.add(row.custom_id)
        return row


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, in order; empty lines are passed over.

    Raises:
        BatchError: the file can't be read, or a line is no request, or has another's `custom_id`.
    """
    reader = RowReader(str(path))
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield reader.read(line, number)
    except OSError as error:
        raise BatchError(f"{path}: {error.strerror}") from error


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


def answer_line(row: Row, status: int, body: Any, *, error_in_body: bool = False) -> bytes:
    """The line of one answer. What is refused has its error beside the response, as vLLM's run-batch writes it.

    `error_in_body`: in the response's body, as OpenAI's API of batches has it.
    """
    in_body = status < 400 or error_in_body
    response = {"status_code": status, "request_id": f"batch-{uuid.uuid4().hex}", "body": body if in_body else None}
    return _line(row, response, None if in_body else body)


def unanswered_line(row: Row, code: str, message: str) -> bytes:
    """The line of a row that was never sent to a server."""
    return _line(row, None, {"code": code, "message": message})


def _line(row: Row, response: dict[str, Any] | None, error: Any) -> bytes:
    answer = {"id": f"batch_req_{uuid.uuid4().hex}", "custom_id": row.custom_id, "response": response, "error": error}
    return json.dumps(answer).encode() + b"\n"


def append(file: int, line: bytes) -> None:
    """Write a line to the end of the file of the descriptor `file`, whole or not at all. Raises OSError."""
    before = os.fstat(file).st_size
    try:
        while line:
            line = line[os.write(file, line) :]
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(file, before)  # half a line would be listed as an answer
        raise
