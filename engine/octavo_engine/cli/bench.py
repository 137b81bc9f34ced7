"""`octavo bench`: load a server of the OpenAI API and report throughput and latency."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import os
import random
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from octavo_engine.client.benchmark import load, report
from octavo_engine.client.benchmark.summary import Summary, summarize
from octavo_engine.client.benchmark.workload import TOKEN_IDS, Workload
from octavo_engine.client.openai_client import ApiError, OpenAIClient

INTERRUPTED = 130  # a shell's code for a program that Ctrl-C ended

TABLE_WIDTH = 72


class _UnwritableError(Exception):
    """--json names a file that can't be written."""


def _at_least(least: int) -> Any:
    def count(text: str) -> int:
        number = int(text)
        if number < least:
            raise argparse.ArgumentTypeError(f"{number} is less than {least}")
        return number

    count.__name__ = "int"  # argparse names it in its message for a text that is no number
    return count


def _rate(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text} is not a rate above 0")
    return number


def parser() -> argparse.ArgumentParser:
    """The verb's command line."""
    parser = argparse.ArgumentParser(
        prog="octavo bench",
        description="Load a server of the OpenAI API with random prompts, fresh in each run, and report throughput "
        "and latency. Exits with 1 if a request failed.",
    )
    add = parser.add_argument
    add("--base-url", default="http://127.0.0.1:8000", help="the server (default: %(default)s)")
    add("--model", help="the served name (default: the first that the server lists)")
    add("--api-key", help="the server's key (default: $OPENAI_API_KEY)")
    add("--ca-cert", metavar="FILE", help="PEM file to trust the server by (default: the system's)")
    add("--endpoint", choices=sorted(load.PATHS), default="completions", help="default: %(default)s")
    add("--num-prompts", type=_at_least(1), default=64, metavar="N", help="requests (default: %(default)s)")
    add("--concurrency", type=_at_least(1), default=32, metavar="N", help="at once (default: %(default)s)")
    add("--rate", type=_rate, metavar="R", help="requests a second, Poisson (default: as fast as they end)")
    add("--input-len", type=_at_least(1), default=128, metavar="N", help="own tokens a prompt (default: %(default)s)")
    add("--shared-prefix-len", type=_at_least(0), default=0, metavar="N", help="common tokens before (default: 0)")
    add("--output-len", type=_at_least(1), default=128, metavar="N", help="new tokens each (default: %(default)s)")
    add("--temperature", type=float, default=0.0, help="default: %(default)s")
    add("--ignore-eos", action=argparse.BooleanOptionalAction, default=True, help="generate all of --output-len")
    add(
        "--prompts",
        choices=("auto", "tokens", "words"),
        default="auto",
        help="token ids are of exact length; auto: where the endpoint takes them (default: %(default)s)",
    )
    add("--seed", type=int, help="makes the prompts repeatable (default: fresh ones)")
    add("--warmup", type=_at_least(0), default=1, metavar="N", help="requests before, not counted (default: 1)")
    add("--json", metavar="FILE", help="also write the metrics here; - for stdout, in place of the table")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the verb: 0, 1 if the server can't be used or a request failed, 130 after Ctrl-C."""
    options = parser().parse_args(argv)
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(2**32)
    try:
        summary, settings = asyncio.run(_measure(options))
        _report(options, summary, settings)
    except ApiError as error:
        print(f"octavo bench: {error}", file=sys.stderr)  # noqa: T201 - the verb's own error
        return 1
    except _UnwritableError as error:
        print(f"octavo bench: --json {options.json} can't be written: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return 1 if summary.failed else 0


async def _measure(options: argparse.Namespace) -> tuple[Summary, dict[str, Any]]:
    api_key = options.api_key or os.environ.get("OPENAI_API_KEY")
    async with OpenAIClient(options.base_url, api_key, options.ca_cert) as client:
        model = options.model or await _first_model(client)
        form = load.RequestForm(model, options.endpoint, options.output_len, options.temperature, options.ignore_eos)
        workload = Workload(
            options.num_prompts, options.input_len, options.shared_prefix_len, options.rate, options.seed
        )
        as_words = await _as_words(client, form, options.prompts)
        # Their prompts differ from all that is measured, so that no prefix cache helps with those.
        warmup = dataclasses.replace(workload, num_prompts=options.warmup, seed=options.seed + 1, rate=None)
        await load.run(
            client, form, warmup.prompts(as_words=as_words), warmup.arrivals(), options.concurrency, lambda _: None
        )
        outcomes = []
        progress = _progress()
        with progress:
            bar = progress.add_task("requests", total=options.num_prompts)
            outcomes = await load.run(
                client,
                form,
                workload.prompts(as_words=as_words),
                workload.arrivals(),
                options.concurrency,
                lambda _: progress.advance(bar),
            )
    settings = {
        "base_url": options.base_url,
        **dataclasses.asdict(form),
        **dataclasses.asdict(workload),
        "concurrency": options.concurrency,
        "prompts": "words" if as_words else "tokens",
    }
    return summarize(outcomes), settings


async def _first_model(client: OpenAIClient) -> str:
    models = await client.models()
    if not models:
        raise ApiError(f"{client.base_url} serves no model")
    return models[0]


async def _as_words(client: OpenAIClient, form: load.RequestForm, wanted: str) -> bool:
    """True if prompts are words; if that is not given, one short request shows whether token ids are accepted."""
    if form.endpoint == "chat" or wanted == "words":
        return True
    if wanted == "tokens":
        return False
    body = form.body([TOKEN_IDS.start, TOKEN_IDS.stop - 1], max_tokens=1)
    try:
        async with contextlib.aclosing(client.stream(load.PATHS[form.endpoint], body)) as chunks:
            async for _ in chunks:
                continue
    except ApiError as error:
        # An absent server, or one that requires a key, would refuse words too.
        if error.status not in {400, 404, 415, 422, 500, 501}:
            raise
        return True
    return False


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        refresh_per_second=2,  # the server under test may need these cores
        disable=not console.is_terminal,
        transient=True,
    )


def _report(options: argparse.Namespace, summary: Summary, settings: dict[str, Any]) -> None:
    if options.json:
        text = report.as_json(summary, settings) + "\n"
        if options.json == "-":
            sys.stdout.write(text)
            return
        try:
            Path(options.json).write_text(text, encoding="utf-8")
        except OSError as error:
            raise _UnwritableError(error.strerror) from error
    shared = f"{options.shared_prefix_len} shared + " if options.shared_prefix_len else ""
    pace = "as fast as they end" if options.rate is None else f"{options.rate:g}/s"
    title = (
        f"{settings['model']}: {options.num_prompts} requests, {options.concurrency} at once, {pace}; "
        f"{shared}{options.input_len} → {options.output_len} {settings['prompts']}; seed {options.seed}"
    )
    console = Console()
    # A narrow terminal breaks the lines; rich would cut the metrics.
    console.width = max(console.width, TABLE_WIDTH)
    console.print(report.table(summary, title))


if __name__ == "__main__":
    from octavo.process import run

    sys.exit(run("octavo bench", main))
