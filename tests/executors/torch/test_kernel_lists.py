"""Rehearsed kernels are listed beside the kernels, under a name that changes with whatever decides them."""

from __future__ import annotations

import dataclasses
import os
from types import SimpleNamespace

import msgspec
import pytest
import torch
from octavo_testing.kernel_traffic import LLAMA_3_8B, SMOLLM2_135M, config_for

from octavo_engine.executors.torch import kernel_lists, warm_up
from octavo_engine.executors.torch.kernel_lists import name_of, read_list, write_list
from octavo_engine.executors.torch.rehearsal import kernels_of
from octavo_engine.executors.torch.warm_up import compile_kernels, listed_as, variant_of
from octavo_engine.kernels.triton.direct_launch import DirectLauncher
from octavo_engine.kernels.triton.launch import Gpu, Launcher
from octavo_models import from_hf_config
from octavo_models.partition import Place

SPEC, LLAMA = from_hf_config(SMOLLM2_135M), from_hf_config(LLAMA_3_8B)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("TRITON_CACHE_DIR", os.fspath(folder))
    monkeypatch.delenv("OCTAVO_KERNELS", raising=False)
    return folder


def replaced(part: str, **fields):
    config = config_for(64)
    return msgspec.structs.replace(config, **{part: msgspec.structs.replace(getattr(config, part), **fields)})


def test_variants_are_read_as_they_were_written():
    variants = list(kernels_of(config_for(64), SPEC, Launcher(Gpu(90, 132))))
    write_list("octavo-x.json", [listed_as(variant, "entry") for variant in variants])
    assert [variant_of(kernel) for kernel in read_list("octavo-x.json")] == variants


def test_a_list_that_is_damaged_or_elsewhere_is_none(cache, monkeypatch, tmp_path):
    (cache / "octavo-x.json").write_text('[{"module":')
    assert read_list("octavo-x.json") is None
    assert read_list("octavo-y.json") is None
    (tmp_path / "image").mkdir()
    (tmp_path / "image/octavo-y.json").write_text("[]")
    monkeypatch.setenv("OCTAVO_KERNELS", os.fspath(tmp_path / "image"))
    assert read_list("octavo-y.json") == []


@pytest.mark.parametrize(
    "config",
    [
        replaced("model", model="/elsewhere", max_model_len=100),
        replaced("cache", gpu_memory_utilization=0.5, swap_space_gib=1.0),
        replaced("executor", device="cuda", enforce_eager=True),
        replaced("scheduler", policy="priority", max_num_queued_reqs=3),
        replaced("server", port=9000),
    ],
)
def test_what_changes_no_kernels_changes_no_name(config):
    assert name_of(config, SPEC, Place(), 90) == name_of(config_for(64), SPEC, Place(), 90)
    assert kernels_of(config, SPEC, Launcher(Gpu(90, 132))) == kernels_of(config_for(64), SPEC, Launcher(Gpu(90, 132)))


def test_what_changes_kernels_changes_the_name(monkeypatch, tmp_path):
    usual = (config_for(64), SPEC, Place(), 90)
    tuned = tmp_path / "tuned.json"
    tuned.write_text("{}")
    others = [
        (replaced("model", dtype="float16"), *usual[1:]),
        (replaced("cache", block_size=32), *usual[1:]),
        (replaced("scheduler", max_num_seqs=32), *usual[1:]),
        (replaced("executor", kernel_parameters=os.fspath(tuned)), *usual[1:]),
        (usual[0], LLAMA, *usual[2:]),
        (*usual[:2], Place(0, 2), 90),
        (*usual[:3], 80),
    ]
    names = [name_of(*usual), *(name_of(*other) for other in others)]
    tuned.write_text('{"a": 1}')
    names.append(name_of(*others[3]))
    monkeypatch.setattr(kernel_lists, "_sources", lambda: b"another source")
    names.append(name_of(*usual))
    assert len(set(names)) == len(names) == 10


def test_a_second_start_rehearses_nothing_and_needs_the_same_kernels(monkeypatch):
    prepared = []

    def prepare(variants, *_, **__):
        prepared.append(variants)
        return {variant: SimpleNamespace(hash=f"{i:064x}") for i, variant in enumerate(variants)}

    monkeypatch.setattr(warm_up, "prepare", prepare)
    places = [Place(rank, 2) for rank in range(2)]
    first = compile_kernels(config_for(64), LLAMA, 90, places, 1)
    monkeypatch.setattr(warm_up, "kernels_of", None)
    assert compile_kernels(config_for(64), LLAMA, 90, places, 1) == first > 0
    assert prepared[0] == prepared[1]


def test_an_engine_loads_what_it_prepares(monkeypatch):
    """The list that `octavo compile` has left is used, though the engine's own flags are more."""
    code = SimpleNamespace(hash="0" * 64, run=None)
    monkeypatch.setattr(warm_up, "prepare", lambda variants, *_, **__: dict.fromkeys(variants, code))
    compile_kernels(config_for(64), SPEC, 90, [Place()], 1)
    monkeypatch.setattr(warm_up, "kernels_of", None)
    ops = warm_up.TritonOperations(DirectLauncher(Gpu(90, 132)))
    config = replaced("model", model="/mounted", max_model_len=100)
    warm_up.prepare_kernels(config, SPEC, ops, Place())
    assert len(ops.launch.prepared) > 20
    assert {
        pointer.dtype for v in ops.launch.prepared for pointer in v.args if isinstance(pointer, warm_up.Pointer)
    } >= {
        torch.bfloat16,
        torch.float32,
    }


def test_a_spec_of_the_same_model_has_the_same_name():
    again = from_hf_config(dict(SMOLLM2_135M))
    assert dataclasses.asdict(again) == dataclasses.asdict(SPEC)
    assert name_of(config_for(64), again, Place(), 90) == name_of(config_for(64), SPEC, Place(), 90)
