"""The engine of a server that has none: it renders and derenders, and loads no weights."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from octavo_engine.core_client.start_watch import bytes_moved
from octavo_engine.errors import EngineDeadError, ModelLoadError, RequestError
from octavo_engine.messages import EngineRequest, PoolingRequest, Ready, Vocabulary
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve

if TYPE_CHECKING:
    from octavo_engine.config import ModelConfig, ModelFiles
    from octavo_engine.core_client.engine_client import PauseMode
    from octavo_engine.core_client.observer import Observer
    from octavo_engine.core_client.output_stream import OutputStream

NAME = "no engine: it renders and derenders only"


class NoEngine:
    """An `EngineLink` that never generates."""

    def __init__(self, model: ModelConfig) -> None:
        self._model = model
        self._files: ModelFiles | None = None
        self.dead: EngineDeadError | None = None
        self.on_death: Callable[[EngineDeadError], None] = lambda _error: None

    @property
    def last_heard(self) -> float:
        """Now: nothing can hang."""
        return time.monotonic()

    def connect(self, observer: Observer, on_progress: Callable[[str, float], None]) -> None:
        """Nothing to connect to."""

    async def model_files(self) -> ModelFiles:
        """The model's files, weights left out where the tokenizer is a file of its own. Raises ModelLoadError."""
        self._files = await asyncio.to_thread(self._resolved)
        return self._files

    def _resolved(self) -> ModelFiles:
        bare = self._model
        if bare.load_format == "auto" and bare.file is None:
            bare = msgspec.structs.replace(bare, load_format="dummy")
        files = resolve(bare, lambda _what, _done, _total: None)
        if files.tokenizer is None and bare is not self._model:
            return resolve(self._model, lambda _what, _done, _total: None)
        return files

    async def ready(self) -> Ready:
        """The model's length, as its files or the flag have it. Raises ModelLoadError."""
        assert self._files is not None, "model_files first"
        length, vocab_size = self._model.max_model_len, 0  # the tokenizer's
        try:
            spec = await asyncio.to_thread(read_spec, self._model, self._files)
            length, vocab_size = length or spec.max_position, spec.vocab_size
        except ModelLoadError as error:  # rendering needs no description of the model
            if length is None:
                raise ModelLoadError(f"{error}; name its context length with --max-model-len") from error
        return Ready(
            num_blocks=[],
            block_size=0,
            kv_cache_bytes=0,
            max_model_len=length,
            executor=NAME,
            stages=[],
            vocab_size=vocab_size,
        )

    def bytes_moved(self) -> int | None:
        """Bytes that this process has read and written."""
        return bytes_moved([os.getpid()])

    def check_room(self) -> None:
        """Admit everything: nothing waits here."""

    def submit(
        self,
        requests: Sequence[EngineRequest | PoolingRequest],  # noqa: ARG002
        *,
        admitted: bool = False,  # noqa: ARG002
        behind: Mapping[str, str] | None = None,  # noqa: ARG002
    ) -> OutputStream:
        """Refuse them."""
        raise RequestError(
            "this server renders and derenders, and generates nothing: send the request to a server of octavo serve",
            status=404,
        )

    def send_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Grammars are compiled where answers are generated."""

    is_paused = False
    is_asleep = False
    num_held = 0

    async def pause(self, mode: PauseMode, *, sleep: bool = False) -> bool:  # noqa: ARG002
        """Nothing runs."""
        return True

    def resume(self) -> None:
        """Nothing was held back."""

    async def load_adapter(self, adapter_id: int, path: str) -> str | None:  # noqa: ARG002
        """Nothing generates with it."""
        return "this server renders and derenders, and has no adapters: load it into a server of octavo serve"

    def remove_adapter(self, adapter_id: int) -> None:
        """No adapter is kept."""

    def reset_prefix_cache(self) -> None:
        """Nothing is cached."""

    def drop_all(self, reason: str) -> None:
        """Nothing runs."""

    def close(self) -> int:
        """Nothing to end."""
        return 0

    def kill(self) -> None:
        """Nothing to end."""
