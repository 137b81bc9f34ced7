"""The server's behaviour while its core starts."""

from __future__ import annotations

import pytest

from octavo_engine.config import EngineConfig, ModelConfig
from octavo_engine.errors import EngineDeadError
from octavo_engine.server.start import build_context
from octavo_engine.text.template_process import TemplateProcess


async def test_the_renderer_starts_while_the_core_finds_the_model(monkeypatch):
    """Its interpreter needs nothing of the model, and the first chat and the probe of the template need it."""
    started: list[TemplateProcess] = []
    start = TemplateProcess.start
    monkeypatch.setattr(TemplateProcess, "start", lambda self: started.append(self) or start(self))

    class Core:
        """One that ends before it has found the model."""

        def connect(self, _observer, _on_stage):
            assert not started

        async def model_files(self):
            assert [renderer._process.poll() for renderer in started] == [None]
            raise EngineDeadError("it has ended")

    config = EngineConfig(model=ModelConfig(model="m", served_model_names=("m",)))
    with pytest.raises(EngineDeadError):
        await build_context(config, Core(), lambda _stage, _seconds: None)
    for renderer in started:
        renderer.close()
