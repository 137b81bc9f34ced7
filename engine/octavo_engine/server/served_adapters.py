"""The low-rank adapters that requests may name as their model: those of the start, and those that were loaded since.

Owns names. The engine's requests have ids of adapters; none is ever used twice, so that what one adapter has computed is
never taken for another's.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass, field

from octavo_engine.config import AdapterConfig, ModelConfig
from octavo_engine.core_client.engine_link import EngineLink
from octavo_engine.errors import RequestError

INVALID = "InvalidUserInput"  # vLLM's type of these errors
NOT_FOUND = "No adapter found"  # what the engine's reason begins with where there is none


@dataclass(frozen=True, slots=True)
class ServedAdapter:
    """One adapter. `path` is as the user wrote it, `parent` the model that it is shown to belong to."""

    name: str
    adapter_id: int
    path: str
    parent: str
    created: int = field(default_factory=lambda: int(time.time()))


class ServedAdapters:
    """The adapters of one server, by name. Every method is called on the event loop."""

    def __init__(self, model: ModelConfig, config: AdapterConfig, client: EngineLink) -> None:
        self._model_names = model.served_model_names
        self._config = config
        self._client = client
        modules = enumerate(config.modules, 1)
        self._adapters = {m.name: self._adapter(m.name, i, m.path, m.base_model_name) for i, m in modules}
        self._ids = itertools.count(len(config.modules) + 1)
        self._changing = asyncio.Lock()

    def all(self) -> tuple[ServedAdapter, ...]:
        """Every adapter, in the order in which they were loaded."""
        return tuple(self._adapters.values())

    def get(self, name: str) -> ServedAdapter | None:
        """The adapter of that name; None if there is none."""
        return self._adapters.get(name)

    def name_of(self, adapter_id: int) -> str | None:
        """The name of an adapter; None once it was unloaded."""
        return next((a.name for a in self._adapters.values() if a.adapter_id == adapter_id), None)

    async def load(self, name: str, path: str, *, in_place: bool) -> None:
        """Load an adapter; with `in_place` it takes the place of one that has its name.

        Raises:
            RequestError: the name is taken, there is no such adapter (404), or it can't be served.
            EngineDeadError: the engine is gone.
        """
        async with self._changing:
            known = self._adapters.get(name)
            if name in self._model_names:
                raise RequestError(
                    f"lora_name is {name!r}, which is the model's own name: choose another one",
                    "lora_name",
                    type_=INVALID,
                )
            if known is not None and not in_place:
                raise RequestError(
                    f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set "
                    "'load_inplace' to True.",
                    "lora_name",
                    type_=INVALID,
                )
            if known is None and len(self._adapters) >= self._config.max_cpu_loras:
                raise RequestError(
                    f"{len(self._adapters)} adapters are loaded, as many as --max-cpu-loras lets the engine keep: unload one, "
                    "or serve with a higher --max-cpu-loras",
                    "lora_name",
                )
            adapter = self._adapter(name, next(self._ids), path)
            problem = await self._client.load_adapter(adapter.adapter_id, path)
            if problem is not None:
                raise RequestError(problem, "lora_path", status=404 if problem.startswith(NOT_FOUND) else 400)
            self._adapters[name] = adapter
            if known is not None:
                self._client.remove_adapter(known.adapter_id)

    async def unload(self, name: str) -> None:
        """Unload an adapter; requests that have it already are finished.

        Raises:
            RequestError: there is none of that name (404).
        """
        async with self._changing:
            adapter = self._adapters.pop(name, None)
            if adapter is None:
                raise RequestError(f"The lora adapter '{name}' cannot be found.", "lora_name", status=404)
            self._client.remove_adapter(adapter.adapter_id)

    def _adapter(self, name: str, adapter_id: int, path: str, parent: str | None = None) -> ServedAdapter:
        return ServedAdapter(name, adapter_id, path, parent or self._model_names[0])
