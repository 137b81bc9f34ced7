"""The engines that a service may run: one module each, with everything in which they differ.

To add one: a module with its `RUNTIME`, an entry in `ENTRIES`, its name in the CRD's enum (`api.engine`). A test holds
the registry and the enum to each other, another each runtime's arguments to its own parser.
"""

from __future__ import annotations

from collections.abc import Mapping

from octavo_operator.api.engine import Engine
from octavo_operator.runtimes import octavo, sglang, tensorrt_llm, tgi, vllm
from octavo_operator.runtimes.runtime import Runtime, Unsupported

ENTRIES: tuple[Runtime | Unsupported, ...] = (
    octavo.RUNTIME,
    vllm.RUNTIME,
    sglang.RUNTIME,
    tgi.RUNTIME,
    tensorrt_llm.RUNTIME,
)
RUNTIMES: Mapping[str, Runtime] = {each.name: each for each in ENTRIES if isinstance(each, Runtime)}
"""The runtimes that run, by their value of `engine.runtime`."""
IMAGE_KEYS = tuple(sorted({key for runtime in RUNTIMES.values() for key in runtime.images.values()}))
"""Keys of `Settings.images`."""
OCTAVO = octavo.RUNTIME


def runtime_of(engine: Engine) -> Runtime:
    """The service's runtime; octavo's in place of one that is refused anyway."""
    return RUNTIMES.get(engine.runtime, OCTAVO)
