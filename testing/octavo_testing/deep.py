"""A switch between comparing all there is (`OCTAVO_DEEP_TESTS=1`, `make test-deep`), and what takes minutes in all."""

import os

DEEP = bool(os.environ.get("OCTAVO_DEEP_TESTS"))
