"""Kernels compiled before they are needed, and where they are kept.

Triton's own cache, under Triton's own keys, with two things added: a second folder that is only read, such as one that
an image brings along, and entries that do not depend on where their folder lies, so that it may be copied or mounted
anywhere. `prepare` compiles in parallel processes what neither folder has.
"""

from __future__ import annotations

import fcntl
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from triton import knobs
from triton.runtime.cache import FileCacheManager

from octavo_engine.errors import ExecutorError
from octavo_engine.kernels.folders import READ_FROM, group_of
from octavo_engine.kernels.triton.variants import Variant, compiled, compiled_for

logger = logging.getLogger(__name__)

PAUSE_S = 5.0  # between two lines of progress


class NotCompiledError(Exception):
    """Neither folder has the kernel."""


class KernelCache(FileCacheManager):  # type: ignore[misc]
    """Triton's entry for one kernel; `knobs.cache.manager_class` makes Triton use it."""

    looking: ClassVar[bool] = False  # what is not there is not compiled

    def __init__(self, key: str, override: bool = False, dump: bool = False) -> None:
        super().__init__(key, override, dump)
        self._own = not override and not dump

    def get_group(self, filename: str) -> dict[str, str] | None:
        """The files of a compiled kernel; their folders are ours, whatever the entry says."""
        if not self._own:
            found: dict[str, str] | None = super().get_group(filename)
            return found
        for folder in self._folders():
            files = group_of(folder, filename)
            if files is not None:
                return files
        if KernelCache.looking:
            raise NotCompiledError(filename)
        return None

    def _folders(self) -> Iterator[Path]:
        yield Path(self.cache_dir)
        if read_from := os.environ.get(READ_FROM):
            yield Path(read_from, self.key)


def use_kernel_cache() -> None:
    """Have Triton look into both folders. Of what is compiled the binary alone is kept, which is all that is loaded."""
    knobs.cache.manager_class = KernelCache
    knobs.compilation.store_binary_only = True


def prepare(
    variants: Sequence[Variant],
    capability: int,
    workers: int,
    report: Callable[[int, int], None],
    *,
    on_gpu: bool = True,
) -> dict[Variant, Any]:
    """The code of `variants`, compiled in `workers` processes where the cache lacks it. `report(done, missing)`.

    `on_gpu`: for this process's own GPU, whose compute capability is `capability`; else for any one of that kind.

    Raises:
        ExecutorError: a kernel can't be compiled.
    """
    use_kernel_cache()

    def code_of(variant: Variant) -> Any:
        return compiled(variant) if on_gpu else compiled_for(capability, variant)

    with _alone():
        found = _look(variants, code_of)
        missing = [variant for variant in variants if variant not in found]
        if missing:
            report(0, len(missing))
            for done, _ in enumerate(_compiling(missing, capability, workers), 1):
                report(done, len(missing))
    return found | _look(missing, code_of)


def _look(variants: Sequence[Variant], code_of: Callable[[Variant], Any]) -> dict[Variant, Any]:
    """Look up what the cache has."""
    found = {}
    KernelCache.looking = True
    try:
        for variant in variants:
            try:
                found[variant] = code_of(variant)
            except NotCompiledError:
                continue
    finally:
        KernelCache.looking = False
    return found


def _compiling(missing: Sequence[Variant], capability: int, workers: int) -> Iterator[None]:
    """Compile and yield once for each kernel that is done. Largest first: attention and products take longest."""
    ordered = sorted(missing, key=lambda variant: -len(variant.options))
    pool = ProcessPoolExecutor(min(workers, len(missing)), multiprocessing.get_context("spawn"))
    try:
        for future in as_completed([pool.submit(_compile, capability, variant) for variant in ordered]):
            if (why := future.result()) is not None:
                raise ExecutorError(why)
            yield None
    except BrokenProcessPool as error:
        raise ExecutorError(
            "a process that compiled kernels was ended, most likely for want of memory: give the pod more, or fill the "
            "cache beforehand with octavo compile"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _compile(capability: int, variant: Variant) -> str | None:
    """Compile one variant in a process of its own; the reason if it can't be compiled, else None."""
    use_kernel_cache()
    try:
        compiled_for(capability, variant)
    except Exception as error:  # noqa: BLE001 — the passes raise what they like, and not all of it can be pickled
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"{variant} can't be compiled for compute capability {capability / 10:.1f}: {line}"
    return None


@contextmanager
def _alone() -> Iterator[None]:
    """Have the ranks of one machine take turns: the first one compiles, the others find it done."""
    folder = Path(knobs.cache.dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "octavo.lock").open("w")
    except OSError:  # the first kernel says why
        yield
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:  # a volume without locks: each compiles for itself
            logger.info("%s has no file locks: ranks compile the same kernels", folder)
        yield


class ProgressLine:
    """A line now and then, and one at the end."""

    def __init__(self, capability: int, say: Callable[[str], None] = logger.info) -> None:
        self._capability = f"{capability / 10:.1f}"
        self._say = say
        self._start = self._next = time.monotonic()

    def report(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now >= self._next:
            self._next = now + PAUSE_S
            seconds = now - self._start
            self._say(f"compiled {done} of {total} kernels for compute capability {self._capability} ({seconds:.0f} s)")
