"""Adapters of a real model's GGUF file, loaded and unloaded while `octavo serve` answers."""

from __future__ import annotations

import shutil

import openai
import pytest
from octavo_testing.adapters import random_factors, write_adapter
from octavo_testing.served import Served
from openai import OpenAI

from octavo_engine.weights.model_spec import read_spec

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def adapters(smollm2, tmp_path_factory):
    """Two random adapters to all modules, and one whose file was cut short."""
    root = tmp_path_factory.mktemp("adapters")
    spec = read_spec(smollm2.config(), smollm2.files)
    for seed, name in enumerate(("one", "two")):
        write_adapter(root / name, random_factors(spec, seed=seed, rank=8, size=0.3))
    shutil.copytree(root / "one", root / "damaged")
    path = root / "damaged/adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    return root


def text(client, model: str) -> str:
    return client.completions.create(model=model, prompt=PROMPT, max_tokens=12, temperature=0).choices[0].text


@pytest.mark.slow
def test_adapters_come_and_go_while_the_base_model_answers(smollm2, adapters):
    """Each name keeps its answer; a damaged file is a 400 that names it, and changes nothing."""
    flags = ("--served-model-name", "base", "--executor", "native", "--max-model-len", "512", "--max-loras", "2")
    modules = ("--lora-modules", f"one={adapters}/one", "--enable-runtime-lora-updates")
    with (
        Served(smollm2.gguf, *flags, *modules, real=True) as server,
        OpenAI(base_url=f"{server.url}/v1", api_key="unneeded", max_retries=0) as client,
    ):
        base, one = text(client, "base"), text(client, "one")
        assert "Paris" in base
        assert one != base
        status, answer, _ = server.post(
            "/v1/load_lora_adapter", {"lora_name": "two", "lora_path": f"{adapters}/damaged"}
        )
        assert status == 400
        assert "damaged/adapter_model.safetensors" in answer["error"]["message"]
        status, _, _ = server.post("/v1/load_lora_adapter", {"lora_name": "two", "lora_path": f"{adapters}/two"})
        assert status == 200
        two = text(client, "two")
        assert two not in {base, one}
        assert (text(client, "base"), text(client, "one")) == (base, one)
        assert server.post("/v1/unload_lora_adapter", {"lora_name": "one"})[0] == 200
        with pytest.raises(openai.NotFoundError):
            text(client, "one")
        assert (text(client, "base"), text(client, "two")) == (base, two)
