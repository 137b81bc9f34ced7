"""Flags of adapters are vLLM's: several spellings of modules, and contradictions in a sentence."""

from __future__ import annotations

import pytest

from octavo_engine.cli.arguments import parse_with_notes
from octavo_engine.config import AdapterConfig, AdapterModule
from octavo_engine.errors import ConfigError


def adapters(*flags: str) -> AdapterConfig:
    config, _ = parse_with_notes(["m", "--served-model-name", "base", *flags])
    return config.adapters


def test_modules_are_pairs_objects_or_a_list_of_objects():
    """Several values may follow one flag; any module switches adapters on."""
    found = adapters(
        "--lora-modules",
        "a=/x",
        '{"name": "b", "path": "org/b", "base_model_name": "parent"}',
        '[{"name": "c", "path": "hf://org/c"}]',
    )
    assert found.modules == (
        AdapterModule(name="a", path="/x"),
        AdapterModule(name="b", path="org/b", base_model_name="parent"),
        AdapterModule(name="c", path="hf://org/c"),
    )
    assert found.enabled
    assert (found.max_loras, found.max_lora_rank, found.max_cpu_loras) == (1, 16, 3)


def test_without_flags_there_are_no_adapters():
    assert adapters() == AdapterConfig(max_cpu_loras=1)
    assert not adapters("--max-loras", "4", "--max-lora-rank", "64").enabled


def test_a_server_that_loads_at_run_time_keeps_eight_unless_told_otherwise(monkeypatch):
    assert adapters("--enable-lora", "--enable-runtime-lora-updates").max_cpu_loras == 8
    assert adapters("--enable-lora", "--enable-runtime-lora-updates", "--max-cpu-loras", "3").max_cpu_loras == 3
    monkeypatch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "True")
    assert adapters("--enable-lora").runtime_updates
    _, notes = parse_with_notes(["m"])
    assert any("without --enable-lora" in note for note in notes)
    monkeypatch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "0")
    assert not adapters("--enable-lora").runtime_updates


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--lora-modules", "a"], "'a' has no name or no path; write name=path"),
        (["--lora-modules", "=x"], "has no name or no path"),
        (["--lora-modules", '{"name": "a"}'], "has no name or no path"),
        (["--lora-modules", '{"name": "a", "path": 3}'], "has no name or no path"),
        (["--lora-modules", '{"name": "a", "path": "x", "size": 1}'], "has 'size', which is not served"),
        (["--lora-modules", "{"], "is not JSON"),
        (["--lora-modules", "a=x", "a=y"], "the name a is given twice"),
        (["--lora-modules", "base=x"], "the name base is given twice"),
        (["--lora-modules", "a=x", "--no-enable-lora"], "leave one out"),
        (["--enable-lora", "--max-loras", "4", "--max-cpu-loras", "2"], "less than --max-loras 4"),
        (["--lora-modules", "a=x", "b=y", "--max-cpu-loras", "1"], "less than the 2 adapters"),
        (["--enable-lora", "--lora-target-modules", "q_proj"], "applied to all that it was trained for"),
    ],
)
def test_what_contradicts_itself_ends_the_start(flags, words):
    with pytest.raises(ConfigError, match=words):
        adapters(*flags)


def test_precision_and_sharding_of_adapters_have_no_effect():
    _, notes = parse_with_notes(["m", "--enable-lora", "--lora-dtype", "bfloat16", "--fully-sharded-loras"])
    assert len(notes) == 2
