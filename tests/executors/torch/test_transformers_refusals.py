"""Models that transformers can't run here are refused by flag and configuration, by name and with a remedy."""

from __future__ import annotations

import json
import logging

import msgspec
import pytest
import torch
from octavo_testing.engine_runs import engine_config

from octavo_engine.config import EngineConfig, ModelConfig, ParallelConfig
from octavo_engine.engine.loader import read_model
from octavo_engine.errors import ConfigError, ModelLoadError
from octavo_engine.weights.source import resolve
from octavo_models.errors import UnsupportedModelError
from octavo_models.outline import ModelOutline
from octavo_models.spec import ModelSpec


def read(folder, kind: str, executor: str = "torch", *, stages: int = 1, impl: str = "auto", **fields):
    """The engine's reading of the small model `kind`, with `fields` of its config.json changed."""
    from octavo_testing.transformers_survey import small_config  # seconds, which each worker would take

    values = small_config(kind).to_dict()
    (folder / "config.json").write_text(json.dumps(values | fields))
    model = ModelConfig(
        model=str(folder), served_model_names=("tiny",), load_format="dummy", dtype="float32", model_impl=impl
    )
    config: EngineConfig = msgspec.structs.replace(
        engine_config(model, executor), parallel=ParallelConfig(pipeline_parallel_size=stages)
    )
    return read_model(config, resolve(model, lambda *_: None))


def test_a_described_model_runs_as_described_unless_the_flag_says_otherwise(tmp_path):
    names = {"architectures": ["Qwen3ForCausalLM"]}
    assert isinstance(read(tmp_path, "qwen3", **names), ModelSpec)
    assert isinstance(read(tmp_path, "qwen3", impl="octavo", **names), ModelSpec)
    assert isinstance(read(tmp_path, "qwen3", impl="transformers", **names), ModelOutline)


def test_an_architecture_without_a_description_runs_through_transformers_and_the_log_says_the_cost(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        outline = read(tmp_path, "diffllama", architectures=["DiffLlamaForCausalLM"])
    assert isinstance(outline, ModelOutline)
    (line,) = (record.message for record in caplog.records if "transformers computes" in record.message)
    assert "DiffLlamaForCausalLM" in line
    assert "slower" in line


def test_windows_and_heads_of_each_layer_are_seen(tmp_path):
    outline = read(tmp_path, "cohere2", impl="transformers")
    assert [attention.window for attention in outline.attentions] == [8, None, 8, None]
    assert {(a.num_heads, a.num_kv_heads, a.head_dim_k) for a in outline.attentions} == {(6, 2, 8)}
    assert (outline.vocab_size, outline.hidden_size, outline.max_position) == (211, 48, 256)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"impl": "octavo"}, "DiffLlamaForCausalLM"),
        ({"executor": "native"}, "take --executor torch"),
        ({"stages": 2}, "one stage"),
    ],
)
def test_what_rules_transformers_out_is_named(how, message, tmp_path):
    with pytest.raises(ModelLoadError, match=message):
        read(tmp_path, "diffllama", architectures=["DiffLlamaForCausalLM"], **how)


def test_the_flag_is_refused_where_it_cannot_be_kept(tmp_path):
    with pytest.raises(ConfigError, match="--model-impl transformers: the native executor"):
        read(tmp_path, "diffllama", executor="native", impl="transformers", architectures=["DiffLlamaForCausalLM"])


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("diffllama", {"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "m.M"}}, "its own code .* never run"),
        ("diffllama", {"quantization_config": {"quant_method": "awq"}}, "quantized checkpoints"),
        (
            "diffllama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "longest request",
        ),
        ("rwkv", {}, "recurrent state"),
        ("bart", {}, "encoder with a decoder"),
        ("bloom", {}, "takes no positions"),
        ("openai-gpt", {}, "attention interface"),
        ("doge", {}, "a mask of its own"),
    ],
)
def test_what_a_model_needs_and_cannot_have_is_named(kind, fields, message, tmp_path):
    with pytest.raises(ModelLoadError, match=message):
        read(tmp_path, kind, impl="transformers", **fields)


def test_a_model_that_counts_positions_its_own_way_does_not_serve():
    """RoBERTa's begin after the padding token's number; its outline shows nothing of it."""
    from octavo_testing.transformers_survey import verdict

    assert "is not what transformers computes" in (verdict("roberta") or "")


@pytest.mark.parametrize(
    ("rule", "window"),
    [
        (lambda _, __, q, kv: kv <= q, None),
        (lambda _, __, q, kv: (kv <= q) & (kv > q - 8), 8),
        (lambda _, __, q, kv: (kv <= q) & (kv > q - 2), 2),
    ],
)
def test_windows_are_read_from_masks(rule, window):
    from octavo_engine.executors.torch.transformers_outline import window_of

    assert window_of(rule) == window


@pytest.mark.parametrize(
    "rule",
    [
        lambda _, __, ___, kv: torch.ones_like(kv, dtype=torch.bool),  # both directions
        lambda _, __, q, kv: (kv <= q) & (kv // 8 == q // 8),  # chunks
        lambda _, __, q, kv: (kv <= q) & (kv % 2 == q % 2),
        lambda _, __, q, kv: kv < q,
    ],
)
def test_masks_that_are_no_window_are_refused(rule):
    from octavo_engine.executors.torch.transformers_outline import window_of

    with pytest.raises(UnsupportedModelError):
        window_of(rule)
