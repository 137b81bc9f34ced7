"""Threads for work that is too long for the event loop: a bounded pool for each kind, so that none waits for another.

The loop only continues while a thread releases the interpreter's lock: tokenizing does, the rest is Python code that
releases it every few milliseconds. One long call that keeps the lock would stop the loop from here too.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
Kind = Literal["read", "encode", "encode_long", "render", "decode", "format"]

# A long text takes hundreds of MiB while it is tokenized: one at a time.
THREADS: dict[Kind, int] = {"read": 2, "encode": 2, "encode_long": 1, "render": 4, "decode": 1, "format": 2}


class Pools:
    """`run` waits for a free thread of its kind; what waits is bounded by the bodies that the server holds."""

    def __init__(self) -> None:
        self._pools = {kind: ThreadPoolExecutor(count, f"octavo-{kind}") for kind, count in THREADS.items()}

    async def run(self, kind: Kind, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `work`, or what it raises. A caller that is cancelled while it waits costs nothing."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pools[kind], lambda: work(*args, **kwargs))

    def close(self) -> None:
        """Let what waits go; what runs ends with its own bounds."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)


def give_memory_back() -> None:
    """Return what a large piece of work has freed to the system, which glibc keeps otherwise."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
