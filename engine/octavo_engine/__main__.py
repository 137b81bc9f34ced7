"""`python -m octavo_engine` is `octavo serve`: the entry point of the engine's image."""

from __future__ import annotations

import os
import signal
import sys

if os.getpid() == 1:
    # A container's first process has no default action: until the server listens to signals, one would be lost.
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))

from octavo.process import run
from octavo_engine.cli.serve import main

sys.exit(run("octavo serve", main))
