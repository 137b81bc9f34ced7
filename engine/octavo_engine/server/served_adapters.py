"""The low-rank adapters that requests may name as their model: those of the start, and those that were loaded since.

Owns names. The engine's requests have ids of adapters; none is ever used twice, so that what one adapter has computed is
never taken for another's. The engine keeps `--max-cpu-loras` of them: where there are more, those that were not asked for
longest make room, and are read again, under another id, when a request names them.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace

from octavo_engine.config import AdapterConfig, ModelConfig
from octavo_engine.core_client.engine_link import EngineLink
from octavo_engine.errors import RequestError

INVALID = "InvalidUserInput"  # vLLM's type of these errors
MAX_ADAPTERS = 1024  # names; each takes a line of /v1/models
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
        self._in_engine = OrderedDict.fromkeys(self._adapters)  # names, the one that was asked for last at the end
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
            if known is None and len(self._adapters) >= MAX_ADAPTERS:
                raise RequestError(
                    f"{len(self._adapters)} adapters are loaded, as many as are served: unload one", "lora_name"
                )
            await self._read(self._adapter(name, next(self._ids), path), "lora_path")
            if known is not None and name in self._in_engine:
                self._client.remove_adapter(known.adapter_id)
            self._note_use(name)

    async def bring(self, name: str | None) -> None:
        """Have the engine read an adapter again that has made room for others. Other names need nothing.

        Raises:
            RequestError: its files are no longer what they were.
            EngineDeadError: the engine is gone.
        """
        if name not in self._adapters:
            return
        if name not in self._in_engine:
            async with self._changing:
                known = self._adapters.get(name)
                if known is not None and name not in self._in_engine:
                    await self._read(replace(known, adapter_id=next(self._ids)), "model")
        if name in self._adapters:
            self._note_use(name)

    async def _read(self, adapter: ServedAdapter, param: str) -> None:
        problem = await self._client.load_adapter(adapter.adapter_id, adapter.path)
        if problem is not None:
            raise RequestError(problem, param, status=404 if problem.startswith(NOT_FOUND) else 400)
        self._adapters[adapter.name] = adapter

    def _note_use(self, name: str) -> None:
        """Note that a request names an adapter that the engine has; others make room for it."""
        self._in_engine[name] = None
        self._in_engine.move_to_end(name)
        while len(self._in_engine) > self._config.max_cpu_loras:
            oldest, _ = self._in_engine.popitem(last=False)
            self._client.remove_adapter(self._adapters[oldest].adapter_id)

    async def unload(self, name: str) -> None:
        """Unload an adapter; requests that have it already are finished.

        Raises:
            RequestError: there is none of that name (404).
        """
        async with self._changing:
            adapter = self._adapters.pop(name, None)
            if adapter is None:
                raise RequestError(f"The lora adapter '{name}' cannot be found.", "lora_name", status=404)
            if name in self._in_engine:
                del self._in_engine[name]
                self._client.remove_adapter(adapter.adapter_id)

    def _adapter(self, name: str, adapter_id: int, path: str, parent: str | None = None) -> ServedAdapter:
        return ServedAdapter(name, adapter_id, path, parent or self._model_names[0])
