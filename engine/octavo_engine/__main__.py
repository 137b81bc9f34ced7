"""`python -m octavo_engine` is `octavo serve`: the entry point of the engine's image."""

from __future__ import annotations

import sys

from octavo_engine.serve import main

sys.exit(main())
