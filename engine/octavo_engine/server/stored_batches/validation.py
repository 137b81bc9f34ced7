"""Checks the rows of a file before its batch runs, off the event loop."""

from __future__ import annotations

from pathlib import Path

from octavo_engine.batches.rows import BatchError, Row, RowReader
from octavo_engine.server.intake.limits import MAX_BATCH_ROWS, MAX_ROW_BYTES
from octavo_engine.server.stored_batches.objects import RowProblem

MAX_PROBLEMS = 20  # that are reported of a file


def validate(path: Path, endpoint: str) -> tuple[int, list[RowProblem]]:
    """The number of rows of a file, and what is wrong with those that can't be run on `endpoint`."""
    reader = RowReader("the file")
    problems: list[RowProblem] = []
    number = total = 0
    with path.open("rb") as file:
        while (line := file.readline(MAX_ROW_BYTES + 1)) and len(problems) < MAX_PROBLEMS:
            number += 1
            if len(line) > MAX_ROW_BYTES:
                problems.append(RowProblem("line_too_long", f"a line has more than {MAX_ROW_BYTES} bytes", number))
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
    if row.problem is not None:
        return RowProblem("invalid_row", f"line {number}: {row.problem}", number)
    return None
