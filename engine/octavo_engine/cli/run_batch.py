"""The verb `octavo run-batch`: answers the requests of a file with a model that it serves for as long as that takes.

A run that was ended goes on where it was: rows that the output file answers are left out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from octavo_engine.batches.rows import BatchError, Row, answer_line, answered, append, read_rows
from octavo_engine.cli.arguments import parse_with_notes
from octavo_engine.errors import ConfigError

END_SECONDS = 30.0
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the verb's own flags; the others are those of `octavo serve`."""
    parser = argparse.ArgumentParser(
        prog="octavo run-batch",
        allow_abbrev=False,
        description="Answer the requests of a file. All other flags are those of octavo serve.",
    )
    parser.add_argument(
        "-i", "--input-file", required=True, type=Path, metavar="FILE", help="requests, one JSON a line"
    )
    parser.add_argument(
        "-o", "--output-file", required=True, type=Path, metavar="FILE", help="answers, one JSON a line"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run `octavo run-batch` with `argv`; the exit code: 0, 1 if the server could not answer all, 2 for usage."""
    options, flags = build_parser().parse_known_args(sys.argv[1:] if argv is None else argv)
    try:
        config, _ = parse_with_notes(flags)
        done = answered(options.output_file)
        left = sum(row.custom_id not in done for row in read_rows(options.input_file))
    except (ConfigError, BatchError) as error:
        print(f"octavo run-batch: {error}", file=sys.stderr)  # noqa: T201
        return 2
    if done:
        print(f"{len(done)} rows are answered in {options.output_file} already, {left} are left", flush=True)  # noqa: T201
    if not left:
        options.output_file.touch()
        return 0
    with tempfile.TemporaryDirectory(prefix="octavo-batch-") as folder:
        return asyncio.run(_run(options, flags, done, f"{folder}/server", 2 * config.scheduler.max_num_seqs))


async def _run(options: argparse.Namespace, flags: list[str], done: set[str], socket: str, concurrency: int) -> int:
    from octavo_engine.batches.runner import Runner  # noqa: PLC0415 — a wrong file should not pay for aiohttp

    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "octavo_engine", *flags, "--uds", socket, preexec_fn=_end_with_parent
    )
    alive = asyncio.Event()
    alive.set()
    watch = asyncio.ensure_future(_clear_at_end(server, alive))
    answers = Answers(options.output_file)
    runner = Runner(socket, answers.write, concurrency, asyncio.Semaphore(concurrency))
    rows = (row for row in read_rows(options.input_file) if row.custom_id not in done)
    problem = ""
    try:
        await runner.run(rows, alive)
    except* ConnectionError as errors:
        problem = str(errors.exceptions[0])
    finally:
        answers.close()
        watch.cancel()
        await _end(server)
    if problem:
        print(f"octavo run-batch: {problem}; run it again to go on", file=sys.stderr)  # noqa: T201
        return 1
    print(f"{answers.num_good} rows answered, {answers.num_failed} refused: {options.output_file}", flush=True)  # noqa: T201
    return 0


class Answers:
    """The output file, which is appended to, and the number of rows that were answered and refused."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self.num_good = self.num_failed = 0

    def write(self, row: Row, status: int, body: Any) -> None:
        """Write the answer of a row."""
        good = status < 400
        self.num_good += good
        self.num_failed += not good
        append(self._file, answer_line(row, status, body))

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _end_with_parent() -> None:
    """End the server with this process, however it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


async def _clear_at_end(server: asyncio.subprocess.Process, alive: asyncio.Event) -> None:
    await server.wait()
    alive.clear()


async def _end(server: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        server.terminate()
    try:
        await asyncio.wait_for(server.wait(), END_SECONDS)
    except TimeoutError:
        server.kill()
        await server.wait()
