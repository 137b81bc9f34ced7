"""The engine as the server sees it: an engine core behind `EngineClient`, or none at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from octavo_engine.core_client.output_stream import OutputStream
from octavo_engine.errors import EngineDeadError
from octavo_engine.messages import EngineRequest, PoolingRequest, Ready, Vocabulary

if TYPE_CHECKING:
    from octavo_engine.config import ModelFiles
    from octavo_engine.core_client.engine_client import PauseMode
    from octavo_engine.core_client.observer import Observer


class EngineLink(Protocol):
    """The calls that a server makes to its engine; `EngineClient` describes each."""

    dead: EngineDeadError | None
    is_asleep: bool
    on_death: Callable[[EngineDeadError], None]

    @property
    def last_heard(self) -> float: ...

    def connect(self, observer: Observer, on_progress: Callable[[str, float], None]) -> None: ...

    async def model_files(self) -> ModelFiles: ...

    async def ready(self) -> Ready: ...

    def bytes_moved(self) -> int | None: ...

    def check_room(self) -> None: ...

    def submit(
        self,
        requests: Sequence[EngineRequest | PoolingRequest],
        *,
        admitted: bool = False,
        behind: Mapping[str, str] | None = None,
    ) -> OutputStream: ...

    def send_vocabulary(self, vocabulary: Vocabulary) -> None: ...

    @property
    def is_paused(self) -> bool: ...

    @property
    def num_held(self) -> int: ...

    async def pause(self, mode: PauseMode, *, sleep: bool = False) -> bool: ...

    def resume(self) -> None: ...

    async def load_adapter(self, adapter_id: int, path: str) -> str | None: ...

    def remove_adapter(self, adapter_id: int) -> None: ...

    def reset_prefix_cache(self) -> None: ...

    def drop_all(self, reason: str) -> None: ...

    def close(self) -> int: ...

    def kill(self) -> None: ...
