"""The native executor refuses descriptions, instruction sets and threads by name and with the remedy."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys

import pytest
from instruction_sets import every_isa, name_of
from native_executors import SPECS, config_of, files_of
from tiny_specs import draft, mixture

from octavo_engine.errors import ConfigError, ExecutorError
from octavo_engine.executors.native import _native
from octavo_engine.executors.native.executor import NativeExecutor
from octavo_engine.executors.native.model import decoder_model
from octavo_models import features


def decoder_of(model, **fields):
    options = {"threads": 1, "isa": 0, "kv_bf16": False, "block_size": 16, "max_rows": 16, "max_drawn": 4, "widen": -1}
    return _native.Decoder(model, **{**options, **fields})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_dim_k": 0}, "heads of 0 and 16"),
        ({"head_dim_v": -16}, "heads of 16 and -16"),
        ({"num_heads": 0}, "0 heads"),
        ({"rotary": 9}, "rotary is missing"),
        ({"kv_group": 9}, "KV group is missing"),
        ({"head_dim_k": 8}, "rotary over 16 elements of 6 heads of 8"),
        ({"mlp.activation": 99}, "activation of kind 99"),
        ({"window": -3}, "window of -3"),
        ({"mlp.intermediate_size": 0}, "MLP of 0"),
        ({"alibi_slopes": [0.5]}, "1 slopes of 6 heads"),
        ({"chunk": -1}, "chunks of -1"),
        ({"query_scaling": (0.1, -8, 0)}, "query scaling each -8"),
        ({"mlp.activation": 7, "mlp.gated": False}, "clamped swiglu without a gate"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(spec, change, message):
    """The native module itself refuses it: it must not read beyond what it was given."""
    model = decoder_model(_native, spec, spec.kv_layout(16, "f32"))
    layers = model.layers
    for name, value in change.items():
        *path, last = name.split(".")
        setattr(layers[0].mlp if path else layers[0], last, value)
    model.layers = layers
    with pytest.raises(ValueError, match=message):
        decoder_of(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_chosen": 9}, "9 of 8 experts, from 1 of 1 groups"),
        ({"num_chosen": 0}, "0 of 8 experts"),
        ({"num_groups": 3}, "of 8 experts, from 1 of 3 groups"),
        ({"num_groups": 4, "num_chosen": 3}, "3 of 8 experts, from 1 of 4 groups"),
        ({"top_groups": 2}, "from 2 of 1 groups"),
        ({"scoring": 4}, "scoring of kind 4"),
    ],
)
def test_a_router_that_contradicts_itself_is_refused(change, message):
    """Before it could choose an expert that there is not."""
    spec = draft(mixture(8, 3))
    model = decoder_model(_native, spec, spec.kv_layout(16, "f32"))
    layers = model.layers
    for name, value in change.items():
        setattr(layers[1].router, name, value)
    model.layers = layers
    with pytest.raises(ValueError, match=message):
        decoder_of(model)


def test_items_of_a_models_lists_are_copies(spec):
    """A reference would outlive what it refers to once another list is assigned."""
    model = decoder_model(_native, spec, spec.kv_layout(16, "f32"))
    kept, rotary = model.layers[0], model.rotaries[0]
    window, frequencies = kept.window, rotary.inverse_frequencies
    kept.window, rotary.inverse_frequencies = 7, []
    assert (model.layers[0].window, model.rotaries[0].inverse_frequencies) == (window, frequencies)
    model.layers = []
    assert kept.window == 7


def test_kinds_and_sizes_out_of_range_are_refused(spec):
    """A norm that does not exist, an instruction set that does not exist, a step of no tokens."""
    model = decoder_model(_native, spec, spec.kv_layout(16, "f32"))
    for isa in (-1, 99):
        with pytest.raises(ValueError, match="lacks the instruction set"):
            decoder_of(model, isa=isa)
    with pytest.raises(ValueError, match="a step of 0 tokens"):
        decoder_of(model, max_rows=0)
    norm = model.final_norm
    norm.kind = 5
    model.final_norm = norm
    with pytest.raises(ValueError, match="norm of kind 5"):
        decoder_of(model)


def test_too_few_threads_are_one_sentence_with_the_flag():
    """The system's limit on processes or memory ends the start with what to do, not with an abort."""
    program = f"""
import resource
from pathlib import Path
from octavo_engine.config import *
from octavo_engine.errors import ExecutorError
from octavo_engine.executors.native.executor import NativeExecutor
from octavo_models import from_hf_config
files = ModelFiles(folder=Path("/"), config=None, weights=(), weights_format="dummy", tokenizer=None)
config = EngineConfig(model=ModelConfig(model="m", served_model_names=("m",), load_format="dummy"),
                      executor=ExecutorConfig(threads=400))
executor = NativeExecutor(config, from_hf_config({SPECS["llama"]!r}), files)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (200 << 20),) * 2)
try:
    executor.load()
except ExecutorError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert "of 400 threads could be started" in run.stdout, run
    assert run.stdout.strip().endswith("set --threads to fewer")


@pytest.mark.parametrize("value", ["avx1024", "AVX2"])
def test_an_unknown_instruction_set_is_refused_with_the_names(spec, tmp_path, monkeypatch, value):
    """OCTAVO_NATIVE_ISA is a person's: a typing error is answered with what there is."""
    monkeypatch.setenv("OCTAVO_NATIVE_ISA", value)
    with pytest.raises(ConfigError, match=rf'"{value}"; set it to one of scalar, avx2, avx512-vnni, avx512-bf16, amx'):
        NativeExecutor(config_of(), spec, files_of(tmp_path))


@every_isa
def test_an_instruction_set_runs_under_its_own_name(spec, tmp_path, monkeypatch, isa):
    """AVX-512 without bf16 is not called AVX2, nor AVX2 run as something more."""
    monkeypatch.setenv("OCTAVO_NATIVE_ISA", name_of(isa))
    executor = NativeExecutor(config_of(), spec, files_of(tmp_path))
    assert executor.capabilities.name == f"native {name_of(isa)}, 2 threads"


def test_what_is_not_run_is_refused_by_name(spec, tmp_path, monkeypatch):
    """A start ends with the feature's name."""
    monkeypatch.setattr(features, "SUPPORTED", {"native": frozenset(), "torch": frozenset()})
    with pytest.raises(ExecutorError, match=r"native executor can't run .*: it does not support a bias of the head"):
        NativeExecutor(config_of(), dataclasses.replace(spec, head_bias=True), files_of(tmp_path))


def test_no_threads_are_refused(spec, tmp_path):
    with pytest.raises(ConfigError, match="--threads 0"):
        NativeExecutor(config_of(threads=0), spec, files_of(tmp_path))


def test_a_missing_extension_says_what_to_do(spec, tmp_path, monkeypatch):
    """An install without a compiler starts with one sentence, not a traceback."""
    import_module = importlib.import_module

    def without(name, *args):
        if name.endswith("._native"):
            raise ImportError("No module named '_native'")
        return import_module(name, *args)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ExecutorError, match=r"isn't built.*compiler.*--executor torch"):
        NativeExecutor(config_of(), spec, files_of(tmp_path))


@pytest.mark.parametrize("stamp", [None, "0" * 64])
def test_an_extension_of_another_version_says_what_to_do(spec, tmp_path, monkeypatch, stamp):
    """One from before the stamp was there has none."""
    if stamp is None:
        monkeypatch.delattr(_native, "INTERFACE")
    else:
        monkeypatch.setattr(_native, "INTERFACE", stamp)
    with pytest.raises(ExecutorError, match=r"compiled for another version .*: install Octavo again"):
        NativeExecutor(config_of(), spec, files_of(tmp_path))
