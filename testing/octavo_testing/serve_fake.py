"""Runs `octavo serve` with the engine of `fake_engine_loader` in place of one that reads a model."""

from __future__ import annotations

import sys

from octavo_engine.cli.arguments import parse
from octavo_engine.cli.serve import serve
from octavo_engine.errors import ConfigError

if __name__ == "__main__":
    try:
        config = parse(sys.argv[1:])
    except ConfigError as error:
        sys.exit(f"octavo serve: {error}")
    sys.exit(serve(config, loader="octavo_testing.fake_engine_loader:load"))
