"""The plan's bytes are the loaded bytes, of every architecture: weights and KV blocks, on both executors and on ranks."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass

import pytest
import torch
from octavo_testing.engine_runs import engine_config
from octavo_testing.gguf_files import write_mixed_gguf
from octavo_testing.planner_cases import CPU, planned
from octavo_testing.tiny_models import KINDS, QUICK, config_json

from octavo_engine.config import ModelConfig
from octavo_engine.executors.native.executor import NativeExecutor
from octavo_engine.executors.torch.executor import TorchExecutor
from octavo_engine.executors.torch.weights import read_weights
from octavo_engine.kernels.packed_weight import PackedWeight
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve
from octavo_models.features import unsupported
from octavo_models.panels import weights_in_panels
from octavo_models.partition import Place, kv_layout
from octavo_models.sharding import obstacle

LENGTH = 200  # tokens: more than windows, and no whole number of blocks
A100 = {"products": ["NVIDIA-A100-SXM4-40GB"]}


@pytest.fixture(params=[pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in KINDS])
def dummy(request, tmp_path):
    """A model of each architecture with dummy weights in bfloat16: (its config, ModelConfig, files, spec)."""
    config = in_bfloat16(config_json(request.param))
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = ModelConfig(model=str(tmp_path), served_model_names=("m",), load_format="dummy")
    files = resolve(model, lambda *_: None)
    return config, model, files, read_spec(model, files)


def in_bfloat16(config):
    text = {"text_config": in_bfloat16(config["text_config"])} if "text_config" in config else {}
    return config | text | {"dtype": "bfloat16"}


def test_the_native_executor_holds_what_the_plan_says(dummy):
    config, model, files, spec = dummy
    fit = planned(config, accelerator=CPU, engine={"maxModelLen": LENGTH}).fit
    if unsupported(spec, "native") is not None:
        assert fit.reason == "ModelNotSupported"
        return
    executor = NativeExecutor(engine_config(model, "native"), spec, files)
    capacity = executor.load()
    plan = fit.budget
    assert plan.weights == capacity.weight_bytes
    decoder = executor._decoder
    assert [g.block_bytes for g in capacity.layout.groups] == [
        decoder.block_bytes(i) for i in range(len(capacity.layout.groups))
    ]
    assert plan.kv_per_sequence == capacity.layout.kept_bytes(LENGTH)


def test_the_torch_executor_holds_what_the_plan_says(dummy):
    config, model, files, spec = dummy
    if unsupported(spec, "torch") is not None:
        return  # the engine leaves it to transformers
    executor = TorchExecutor(engine_config(model, "torch"), spec, files)
    capacity = executor.load()
    plan = planned(config, accelerator=A100, engine={"maxModelLen": LENGTH}).fit.budget
    in_float32 = sum(2 for weight in spec.weights if ".xielu_" in weight.name)  # what the kernel multiplies by
    assert plan.weights == capacity.weight_bytes == held_by(executor.runner.decoder) - in_float32
    executor.init_kv(tuple(3 for _ in capacity.layout.groups))
    cache = executor.runner.cache
    held = {t.data_ptr(): t.nbytes for held in (cache.keys, cache.values) for t in held.values()}  # some layers share
    blocks = sum(held.values()) // 3
    assert sum(group.block_bytes for group in capacity.layout.groups) == blocks
    assert plan.kv_per_sequence == capacity.layout.kept_bytes(LENGTH)


def test_each_of_two_ranks_holds_what_the_plan_says(dummy):
    config, _, files, spec = dummy
    fit = planned(config, accelerator=A100, engine={"maxModelLen": LENGTH, "tensorParallelSize": 2}).fit
    if obstacle(spec, 2, 1) is not None:
        assert fit.reason == "CannotBeDivided"
        return
    plan = fit.budget
    for rank in range(2):
        held = read_weights(spec, files, torch.bfloat16, torch.device("cpu"), 0, Place.of(rank, 2, 1))
        assert plan.weights == sum(weight.nbytes for weight in held.values())
        assert plan.kv_per_sequence == kv_layout(spec, Place.of(rank, 2, 1), 16, "bf16").kept_bytes(LENGTH)


def test_each_of_three_ranks_with_whole_experts_holds_no_more_than_the_plan_says(dummy):
    """The fullest rank holds it exactly; a size that divides no expert is planned as the engine takes it."""
    config, _, files, spec = dummy
    args = ["--enable-expert-parallel"]
    for size in (2, 3):
        fit = planned(config, accelerator=A100, engine={"tensorParallelSize": size, "args": args}).fit
        if obstacle(spec, size, 1, whole_experts=True) is not None:
            assert fit.reason == "CannotBeDivided"
            continue
        held = []
        for rank in range(size):
            place = Place.of(rank, size, 1, whole_experts=True)
            weights = read_weights(spec, files, torch.bfloat16, torch.device("cpu"), 0, place)
            held.append(sum(weight.nbytes for weight in weights.values()))
        assert fit.budget.weights == max(held)


@pytest.mark.parametrize("dtype", ["auto", "float32", "float16", "bfloat16"])
def test_the_native_executor_holds_blocks_of_few_bits_as_the_plan_says(tmp_path, dtype):
    path = write_mixed_gguf(tmp_path / "mixed.gguf")
    model = ModelConfig(model=str(path), served_model_names=("m",), dtype=dtype)
    files = resolve(model, lambda *_: None)
    spec = read_spec(model, files)
    capacity = NativeExecutor(engine_config(model, "native"), spec, files).load()
    assert capacity.weight_bytes == weights_in_panels(spec, None if dtype == "auto" else dtype)


def held_by(part):
    """Bytes of all tensors that an object and its parts hold, each once."""
    found: dict[int, int] = {}

    def walk(value):
        if isinstance(value, torch.Tensor):
            found[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, PackedWeight):
            value.map(lambda tensor: walk(tensor) or tensor)
        elif is_dataclass(value) and not isinstance(value, type):
            for field in fields(value):
                walk(getattr(value, field.name))
        elif isinstance(value, (list, tuple)):
            for each in value:
                walk(each)

    for value in vars(part).values():
        walk(value)
    return sum(found.values())
