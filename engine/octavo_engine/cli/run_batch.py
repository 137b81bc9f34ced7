"""The verb `octavo run-batch`: answers the requests of a file with a model that it serves for as long as that takes.

A run that was ended goes on where it was: rows that the output file answers are left out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import signal
import sys
import tempfile
from pathlib import Path

from octavo_engine.cli.arguments import parse_with_notes
from octavo_engine.client.batch.rows import BatchError, answered, read_rows
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
    from octavo_engine.client.batch.runner import Runner  # noqa: PLC0415 — a wrong file should not pay for aiohttp

    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "octavo_engine", *flags, "--uds", socket, preexec_fn=_end_with_parent
    )
    alive = asyncio.Event()
    alive.set()
    watch = asyncio.ensure_future(_clear_at_end(server, alive))
    runner = Runner(socket, options.output_file, concurrency)
    rows = (row for row in read_rows(options.input_file) if row.custom_id not in done)
    problem = ""
    try:
        await runner.run(rows, alive)
    except* ConnectionError as errors:
        problem = str(errors.exceptions[0])
    finally:
        watch.cancel()
        await _end(server)
    if problem:
        print(f"octavo run-batch: {problem}; run it again to go on", file=sys.stderr)  # noqa: T201
        return 1
    print(f"{runner.num_good} rows answered, {runner.num_failed} refused: {options.output_file}", flush=True)  # noqa: T201
    return 0


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
