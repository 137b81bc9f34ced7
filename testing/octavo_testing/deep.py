"""Whether all is compared that could be (`OCTAVO_DEEP_TESTS=1`, `make test-deep`), or what takes minutes in all."""

import os

DEEP = bool(os.environ.get("OCTAVO_DEEP_TESTS"))
