"""Checks the rows of a file before its batch runs, off the event loop."""

from __future__ import annotations

from pathlib import Path

from octavo_engine.batches.rows import BatchError, Row, RowReader
from octavo_engine.server.intake.limits import MAX_BATCH_ROWS, MAX_CUSTOM_ID
from octavo_engine.server.stored_batches.objects import RowProblem

MAX_PROBLEMS = 20  # that are reported of a file


def validate(path: Path, endpoint: str, line_bytes: int) -> tuple[int, list[RowProblem]]:
    """The number of rows of a file, and what is wrong with those that can't be run on `endpoint`.

    A line has at most `line_bytes`.
    """
    reader = RowReader("the file")
    problems: list[RowProblem] = []
    number = total = 0
    with path.open("rb") as file:
        while (line := file.readline(line_bytes + 1)) and len(problems) < MAX_PROBLEMS:
            number += 1
            if len(line) > line_bytes:
                message = f"line {number} has more than {line_bytes} bytes: shorten it (--max-body-bytes bounds a body)"
                problems.append(RowProblem("line_too_long", message, number))
                break
            if not line.strip():
                continue
            total += 1
            if total > MAX_BATCH_ROWS:
                message = f"the file has more than {MAX_BATCH_ROWS} rows: make several batches of it"
                problems.append(RowProblem("too_many_rows", message))
                break
            try:
                problem = _problem(reader.read(line, number), endpoint, number)
            except BatchError as error:
                problem = RowProblem(error.code, str(error), number)
            if problem is not None:
                problems.append(problem)
    if not total:
        problems.append(RowProblem("empty_file", "the file has no row: write one request a line"))
    return total, problems


def _problem(row: Row, endpoint: str, number: int) -> RowProblem | None:
    if row.url != endpoint:
        message = f"line {number} is for {row.url[:80]}, and the batch for {endpoint}: send each to a batch of its own"
        return RowProblem("mismatched_url", message, number, "url")
    if len(row.custom_id) > MAX_CUSTOM_ID:
        message = f"line {number}: custom_id has more than {MAX_CUSTOM_ID} characters: shorten it"
        return RowProblem("invalid_row", message, number, "custom_id")
    if row.problem is not None:
        return RowProblem("invalid_row", f"line {number}: {row.problem}", number)
    return None
