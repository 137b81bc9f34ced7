"""The low-rank adapters that requests may name: read in a thread beside the steps, handed to the executor between them.

Owns which of them the executor keeps. One that is removed stays until its requests have ended; where there is no room for
another one until then, the other one's requests wait. Independent of schedules.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from octavo_engine.errors import ConfigError, DeviceLostError, ModelLoadError, OctavoError
from octavo_engine.messages import AdapterLoaded, AddAdapter, EngineRequest
from octavo_models.errors import ModelError

if TYPE_CHECKING:
    from octavo_engine.config import AdapterConfig
    from octavo_engine.executors.executor import Executor
    from octavo_engine.weights.adapter import Adapter

logger = logging.getLogger(__name__)

Read = Callable[[str, int], "Adapter"]  # from a path, as the user wrote it, and an id
NOT_SERVED = "this engine serves no adapters: ask for the base model, or start it with --enable-lora"
GONE = "its adapter was unloaded while it waited: load the adapter again, or ask for another one"


class Adapters:
    """The adapters of one engine. Every method is called by the engine core's thread."""

    def __init__(self, executor: Executor, config: AdapterConfig, read: Read | None) -> None:
        if config.enabled and not executor.capabilities.adapters:
            raise ConfigError(
                f"--enable-lora: {executor.capabilities.name} serves no adapters to this model; leave it out, and serve the "
                "adapter merged into its model"
            )
        self._executor = executor
        self._most = config.max_cpu_loras
        self._read = read if config.enabled else None
        self._reading: dict[int, Future[Adapter]] = {}
        self._pending: dict[int, Adapter] = {}  # read; until the executor has room for it
        self._kept: set[int] = set()  # that the executor has
        self._leaving: dict[int, int | None] = {}  # of those, the last step that may have it, once none runs
        self._failed: dict[int, str] = {}  # of those that were pending: the reason why the executor can't keep it
        self._waiting: dict[str, EngineRequest] = {}  # by request id, for those that are pending
        self._replies: list[AdapterLoaded] = []
        self._reader = ThreadPoolExecutor(1, "read adapter")

    @property
    def is_reading(self) -> bool:
        """True if there will be something to settle without another call."""
        return bool(self._reading or self._pending or self._leaving or self._replies)

    @property
    def num_waiting(self) -> int:
        """The number of requests that wait for their adapter."""
        return len(self._waiting)

    def load(self, paths: Iterable[str]) -> None:
        """Load the adapters of the start, whose ids are 1, 2 and so on.

        Raises:
            ModelLoadError, ExecutorError: one of them can't be served.
        """
        for adapter_id, path in enumerate(paths, 1):
            assert self._read is not None, "adapters at the start are served"
            self._executor.add_adapter(self._read(path, adapter_id))
            self._kept.add(adapter_id)

    def add(self, request: AddAdapter) -> None:
        """Begin to read an adapter; `settle` answers."""
        if self._read is None:
            self._replies.append(AdapterLoaded(adapter_id=request.adapter_id, problem=NOT_SERVED))
            return
        self._reading[request.adapter_id] = self._reader.submit(self._read, request.path, request.adapter_id)

    def remove(self, adapter_id: int) -> None:
        """Have no further request name an adapter, and free it once those that do have ended."""
        if (reading := self._reading.pop(adapter_id, None)) is not None:
            reading.cancel()
        elif adapter_id in self._pending and not any(r.adapter_id == adapter_id for r in self._waiting.values()):
            del self._pending[adapter_id]
        elif adapter_id in self._kept or adapter_id in self._pending:
            self._leaving.setdefault(adapter_id, None)
        self._failed.pop(adapter_id, None)

    def problem(self, adapter_id: int, *, waited: bool = False) -> str | None:
        """The reason why a request can't have this adapter, in a sentence for its sender; None if it can.

        `waited`: it was sent before the adapter was removed, if it was.
        """
        if self._read is None:
            return NOT_SERVED
        if (failure := self._failed.get(adapter_id)) is not None:
            return failure
        known = adapter_id in self._kept or adapter_id in self._pending
        return None if known and (waited or adapter_id not in self._leaving) else GONE

    def hold(self, request: EngineRequest) -> bool:
        """Keep a request whose adapter the executor has no room for yet; False if it need not wait."""
        if request.adapter_id not in self._pending:
            return False
        self._waiting[request.request_id] = request
        return True

    def discard(self, request_id: str) -> bool:
        """Forget a request that waits for its adapter; False if there is no such request."""
        return self._waiting.pop(request_id, None) is not None

    def take_ready(self) -> Iterator[EngineRequest]:
        """The requests that need not wait any more."""
        for request in [r for r in self._waiting.values() if r.adapter_id not in self._pending]:
            del self._waiting[request.request_id]
            yield request

    def settle(self, used: Collection[int], steps: Collection[int]) -> list[AdapterLoaded]:
        """Free what no request has, and hand over what was read, between two steps. The answers since the last call.

        `used` are the adapters of requests that have not ended; `steps` the ids of the steps in flight.

        Raises:
            DeviceLostError: the process must end.
        """
        waiting = {request.adapter_id for request in self._waiting.values()} if self._waiting else set()
        for adapter_id in [a for a in self._leaving if a in self._kept and a not in used and a not in waiting]:
            last = self._leaving[adapter_id]
            if last is None:
                last = self._leaving[adapter_id] = max(steps, default=-1)
            if all(step > last for step in steps):
                self._executor.remove_adapter(adapter_id)
                self._kept.discard(adapter_id)
                del self._leaving[adapter_id]
        for adapter_id in [a for a, future in self._reading.items() if future.done()]:
            self._replies.append(AdapterLoaded(adapter_id=adapter_id, problem=self._taken_in(adapter_id)))
        for adapter_id in list(self._pending):
            if len(self._kept) >= self._most:
                break
            if (failure := self._hand_over(self._pending.pop(adapter_id))) is not None:
                self._leaving.pop(adapter_id, None)
                self._failed[adapter_id] = failure
        replies, self._replies = self._replies, []
        return replies

    def close(self) -> None:
        """End the thread; what it does now is not waited for."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    def _taken_in(self, adapter_id: int) -> str | None:
        """Take in what was read; the reason why it can't be served, if there is one."""
        try:
            adapter = self._reading.pop(adapter_id).result()
        except (OctavoError, ModelError) as error:
            return str(error)
        except MemoryError:
            return "there is not enough memory to read the adapter: unload another one, or give the engine more"
        except Exception:
            logger.exception("an adapter could not be read")
            return "the adapter could not be read, for a reason that the engine's log describes"
        if len(self._kept) >= self._most:
            self._pending[adapter_id] = adapter
            return None
        return self._hand_over(adapter)

    def _hand_over(self, adapter: Adapter) -> str | None:
        """Have the executor keep an adapter; the reason why it can't, if there is one."""
        try:
            self._executor.add_adapter(adapter)
        except DeviceLostError:
            raise
        except (ModelLoadError, OctavoError) as error:
            logger.warning("adapter %d: %s", adapter.adapter_id, error)
            return str(error)
        except MemoryError:
            return "there is not enough memory for the adapter: unload another one, or give the engine more"
        except Exception:
            logger.exception("an adapter could not be handed over")
            return "the adapter could not be handed over, for a reason that the engine's log describes"
        self._kept.add(adapter.adapter_id)
        return None
