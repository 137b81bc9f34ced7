"""The verb `octavo serve`: an API server in this process, an engine core in another.

The core is started first, so that it loads while this process imports what it needs; both are ready at once.
"""

from __future__ import annotations

import sys
import time

from octavo_engine import logs, signals
from octavo_engine.cli.arguments import parse
from octavo_engine.config import EngineConfig
from octavo_engine.core_client.core_handle import CoreHandle
from octavo_engine.errors import ConfigError, EngineDeadError
from octavo_engine.server.listener import bind


def main(argv: list[str] | None = None) -> int:
    """Run `octavo serve` with `argv`; the exit code: 0, 1 for a start that failed or an engine that died, 2 for usage."""
    started = time.perf_counter()
    try:
        config = parse(sys.argv[1:] if argv is None else argv)
    except ConfigError as error:
        print(f"octavo serve: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return serve(config, started=started)


def serve(config: EngineConfig, *, loader: str | None = None, started: float | None = None) -> int:
    """Serve `config` until a signal. Returns the exit code. `loader` names another engine, for tests."""
    started = time.perf_counter() if started is None else started
    logs.set_up(config.server.log_level, config.server.log_format)
    signals.ignore_strays()
    signals.dump_stacks_at_sigusr1()
    core = None
    try:
        if config.parallel.node_rank > 0:
            from octavo_engine.core_client.headless import run as run_headless  # noqa: PLC0415

            return run_headless(config)
        listener = bind(config.server)
        core = CoreHandle.start(config, loader)
        from octavo_engine.core_client.engine_client import EngineClient  # noqa: PLC0415 — the core loads at the same time

        client = EngineClient(core, config.scheduler)
        from octavo_engine.server.lifecycle import run  # noqa: PLC0415 — aiohttp, pydantic, tokenizers

        return run(config, client, listener, started)
    except (ConfigError, EngineDeadError) as error:
        print(f"octavo serve: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if core is not None:
            core.close(timeout=0 if core.process.poll() is None else 5)


if __name__ == "__main__":
    from octavo.process import run

    sys.exit(run("octavo serve", main))
