"""The executor that runs where no flag names one."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace

import pytest

from octavo_engine import executors
from octavo_engine.config import EngineConfig, ExecutorConfig, ModelConfig
from octavo_engine.errors import ExecutorError
from octavo_engine.executors.native.executor import NativeExecutor
from octavo_engine.executors.torch.executor import TorchExecutor
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve
from octavo_models import features

# The package has a function of this name, too.
refusals = sys.modules["octavo_engine.executors.unsupported"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from octavo_testing.tiny_models import make

    folder = tmp_path_factory.mktemp("tiny")
    make("llama", folder)
    return ModelConfig(model=str(folder), served_model_names=("tiny",))


def created(model, name):
    config = EngineConfig(model=model, executor=ExecutorConfig(executor=name))
    files = resolve(model, lambda *_: None)
    return executors.create_executor(config, read_spec(model, files), files)


@pytest.mark.parametrize(
    ("gpu", "name", "kind"),
    [
        (False, "auto", NativeExecutor),
        (True, "auto", TorchExecutor),
        (True, "native", NativeExecutor),
        (False, "torch", TorchExecutor),
    ],
)
def test_a_gpu_chooses_torch_unless_a_flag_says_otherwise(monkeypatch, model, gpu, name, kind):
    monkeypatch.setattr(executors, "has_gpu", lambda: gpu)
    assert type(created(model, name)) is kind


def test_beside_a_gpu_and_without_torch_nothing_is_chosen(monkeypatch, model):
    monkeypatch.setattr(executors, "has_gpu", lambda: True)
    monkeypatch.setattr(executors, "find_spec", lambda name: None)
    with pytest.raises(ExecutorError, match="pip install torch triton"):
        created(model, "auto")


@pytest.fixture
def sinks(monkeypatch, model):
    """The description of a model that only torch runs, and a way to create its executor by `--executor auto`."""
    files = resolve(model, lambda *_: None)
    spec = read_spec(model, files)
    last = replace(spec.layers[-1], attention=replace(spec.layers[-1].attention, sinks=True))
    spec = replace(spec, layers=(*spec.layers[:-1], last))
    monkeypatch.setattr(features, "SUPPORTED", {"native": frozenset(), "torch": frozenset({"sinks"})})
    monkeypatch.setattr(executors, "has_gpu", lambda: False)

    def create(device):
        config = EngineConfig(model=model, executor=ExecutorConfig(device=device))
        return executors.create_executor(config, spec, files)

    return create


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_cpu_takes_torch_for_a_model_that_only_torch_runs(sinks, caplog, device):
    """The log says which part is the reason."""
    with caplog.at_level(logging.WARNING):
        assert type(sinks(device)) is TorchExecutor
    assert (
        "the native executor does not support attention sinks (layer 2): the torch executor runs the model"
        in caplog.text
    )


def test_without_torch_the_refusal_says_what_to_install(monkeypatch, sinks):
    monkeypatch.setattr(executors, "find_spec", lambda name: None)
    monkeypatch.setattr(refusals, "find_spec", lambda name: None)
    with pytest.raises(ExecutorError, match="--executor torch runs it, and needs torch: pip install torch"):
        sinks("auto")


def test_what_neither_runs_stays_with_the_native_executors_refusal(monkeypatch, sinks):
    monkeypatch.setattr(features, "SUPPORTED", {"native": frozenset(), "torch": frozenset()})
    with pytest.raises(ExecutorError, match=r"the native executor can't run .*; choose another model"):
        sinks("cpu")
