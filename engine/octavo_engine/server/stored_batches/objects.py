"""Files and batches, in the shape of OpenAI's API; what is kept of a batch besides."""

from __future__ import annotations

import secrets
import time
from typing import Literal

import msgspec

BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
ENDED: frozenset[str] = frozenset({"failed", "completed", "expired", "cancelled"})


class StoredFile(msgspec.Struct, kw_only=True):
    """A file of rows, or of answers."""

    id: str
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Literal["batch", "batch_output"]
    object: str = "file"
    status: str = "processed"


class RowProblem(msgspec.Struct):
    """A reason why a batch failed."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class RowProblems(msgspec.Struct):
    """The reasons why a batch failed."""

    data: list[RowProblem]
    object: str = "list"


class RequestCounts(msgspec.Struct):
    """Rows of a batch: all, those answered, and those refused."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Batch(msgspec.Struct, kw_only=True):
    """A batch. Times are seconds since the epoch."""

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    status: BatchStatus = "validating"
    object: str = "batch"
    errors: RowProblems | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = msgspec.field(default_factory=RequestCounts)
    metadata: dict[str, str] | None = None

    def enter(self, status: BatchStatus) -> None:
        """Take a status, and note when."""
        self.status = status
        if status != "validating":
            setattr(self, f"{status}_at", int(time.time()))


class BatchRecord(msgspec.Struct, kw_only=True):
    """A batch as it is kept: with the files that its answers go to, which the API shows once it has ended."""

    batch: Batch
    output: str  # ids of files
    errors: str
    keep_seconds: int  # both files, once the batch has ended

    @property
    def files(self) -> tuple[str, str, str]:
        """The ids of all files that it reads and writes."""
        return self.batch.input_file_id, self.output, self.errors


class Deleted(msgspec.Struct):
    """The answer of a deletion."""

    id: str
    object: str = "file"
    deleted: bool = True


class FileList(msgspec.Struct):
    """A part of the list of files."""

    data: list[StoredFile]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: str = "list"


class BatchList(msgspec.Struct):
    """A part of the list of batches."""

    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: str = "list"


def new_id(kind: Literal["file-", "batch_"]) -> str:
    """An id that no one guesses; later ones sort behind earlier ones."""
    return f"{kind}{time.time_ns():016x}{secrets.token_hex(8)}"
