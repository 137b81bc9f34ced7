"""While a model is loaded, what was packed and what is still as stored never add up to two models."""

from __future__ import annotations

import gc
import weakref

import pytest
from native_executors import SPECS, config_of, files_of
from octavo_testing.gguf_files import write_mixed_gguf

from octavo_engine.config import ModelConfig
from octavo_engine.executors.native import executor as native
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve
from octavo_models import from_hf_config


def described(kind, folder):
    """(spec, files): dummy weights that are made when they are read, and rows of q and k that must be moved."""
    if kind == "dummy":
        return from_hf_config(SPECS["llama"]), files_of(folder)
    config = ModelConfig(model=str(write_mixed_gguf(folder / "m.gguf")), served_model_names=("m",))
    files = resolve(config, lambda *_: None)
    return read_spec(config, files), files


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dummy", "gguf"])
def test_a_layer_is_let_go_of_once_it_is_packed(kind, tmp_path, monkeypatch):
    spec, files = described(kind, tmp_path)
    load = native.load_weights
    held: list[tuple[weakref.ref, int]] = []
    most = 0

    def watched(*given):
        nonlocal most
        for weight, stored in load(*given):
            held.append((weakref.ref(stored.data), stored.data.nbytes))
            yield weight, stored
            gc.collect()
            most = max(most, sum(nbytes for alive, nbytes in held if alive() is not None))

    monkeypatch.setattr(native, "load_weights", watched)
    native.NativeExecutor(config_of(), spec, files).load()
    sizes: dict[int | None, int] = {}
    for weight in spec.weights:
        sizes[weight.layer] = sizes.get(weight.layer, 0) + weight.nbytes
    assert len(held) == len(spec.weights)
    largest_matrix = max(weight.nbytes for weight in spec.weights)  # the next one is read before the last are let go
    assert most <= max(sizes.values()) + largest_matrix < sum(sizes.values())
