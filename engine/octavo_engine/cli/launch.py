"""The verb `octavo launch render`: a server that renders and derenders requests, without weights and without an engine."""

from __future__ import annotations

import sys
import time

from msgspec.structs import replace

from octavo_engine import logs, signals
from octavo_engine.cli.arguments import parse
from octavo_engine.errors import ConfigError
from octavo_engine.server.listener import bind

USAGE = (
    "octavo launch render MODEL [FLAG ...]: serve rendering and derendering alone; the flags are those of octavo serve"
)


def main(argv: list[str] | None = None) -> int:
    """Run `octavo launch` with `argv`; the exit code: 0, 1 for a start that failed, 2 for usage."""
    started = time.perf_counter()
    args = sys.argv[1:] if argv is None else argv
    if args[:1] != ["render"]:
        wanted = args[:1] in (["-h"], ["--help"])
        print(USAGE, file=sys.stdout if wanted else sys.stderr)
        return 0 if wanted else 2
    try:
        config = parse(args[1:])
    except ConfigError as error:
        print(f"octavo launch render: {error}", file=sys.stderr)  # noqa: T201
        return 2
    config = replace(config, api=replace(config.api, scale_out=True, renders_only=True))
    logs.set_up(config.server.log_level, config.server.log_format)
    signals.ignore_strays()
    signals.dump_stacks_at_sigusr1()
    try:
        listener = bind(config.server)
        from octavo_engine.core_client.no_engine import NoEngine  # noqa: PLC0415 — a wrong flag should not pay for these
        from octavo_engine.server.lifecycle import run  # noqa: PLC0415

        return run(config, NoEngine(config.model), listener, started)
    except ConfigError as error:
        print(f"octavo launch render: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130
