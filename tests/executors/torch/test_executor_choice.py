"""Which executor runs where nobody has said."""

from __future__ import annotations

import logging

import pytest

from octavo_engine import executors
from octavo_engine.config import EngineConfig, ExecutorConfig, ModelConfig
from octavo_engine.executors.native.executor import NativeExecutor
from octavo_engine.executors.torch.executor import TorchExecutor
from octavo_engine.weights.describe import describe
from octavo_engine.weights.source import resolve


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from octavo_testing.tiny_models import make

    folder = tmp_path_factory.mktemp("tiny")
    make("llama", folder)
    return ModelConfig(model=str(folder), served_model_names=("tiny",))


def created(model, name):
    config = EngineConfig(model=model, executor=ExecutorConfig(executor=name))
    files = resolve(model, lambda *_: None)
    return executors.create_executor(config, describe(model, files), files)


@pytest.mark.parametrize(
    ("card", "name", "kind"),
    [
        (False, "auto", NativeExecutor),
        (True, "auto", TorchExecutor),
        (True, "native", NativeExecutor),
        (False, "torch", TorchExecutor),
    ],
)
def test_a_card_chooses_torch_unless_told_otherwise(monkeypatch, model, card, name, kind):
    monkeypatch.setattr(executors, "has_gpu", lambda: card)
    assert type(created(model, name)) is kind


def test_a_card_without_torch_is_said_to_be_idle(monkeypatch, model, caplog):
    monkeypatch.setattr(executors, "has_gpu", lambda: True)
    monkeypatch.setattr(executors, "find_spec", lambda name: None)
    with caplog.at_level(logging.WARNING):
        assert type(created(model, "auto")) is NativeExecutor
    assert "pip install torch triton" in caplog.text
