"""Adapters of PEFT's are read like weights: into the model's order, and what is damaged or not served is named."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from octavo_testing import tiny_models
from octavo_testing.adapters import PREFIX, random_factors, write_adapter, write_config
from safetensors.numpy import load_file, save_file

from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.adapter_reader import read_adapter
from octavo_engine.weights.adapter_source import adapter_folder
from octavo_models import from_hf_config
from octavo_models.adapter_modules import adapted_modules, adapter_elements
from octavo_models.architectures import BY_HF_CLASS, BY_MODEL_TYPE

Q = "model.layers.1.self_attn.q_proj"


def spec_of(kind: str):
    return from_hf_config(tiny_models.config_json(kind))


@pytest.fixture
def spec():
    return spec_of("llama with biases")


@pytest.fixture
def factors(spec):
    return random_factors(spec, seed=1)


def read(folder, spec, max_rank: int = 16):
    adapter = read_adapter(folder, spec, 7, max_rank)
    return {part.weight: part for part in adapter.parts}


def rewrite(folder, change) -> None:
    """Change the tensors of an adapter in place."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("fields", "scale"),
    [
        ({"lora_alpha": 8}, 2.0),
        ({"lora_alpha": 8, "use_rslora": True}, 8 / math.sqrt(4)),
        ({"lora_alpha": 8, "alpha_pattern": {"layers.1.self_attn.q_proj": 2}}, 0.5),
        ({"lora_alpha": 8, "alpha_pattern": {r"^model\.layers\.[0-9]\.self_attn\.(q_proj|k_proj)$": 2}}, 0.5),
        ({"lora_alpha": 8, "alpha_pattern": {r"layers\.\d+\.self_attn\.q_proj": 2, "q_proj": 4}}, 0.5),
    ],
)
def test_the_scale_is_in_the_second_factor(fields, scale, tmp_path, spec, factors):
    part = read(write_adapter(tmp_path, factors, **fields), spec)["layers.1.q"]
    assert np.array_equal(part.a, factors[Q][0])
    assert np.allclose(part.b, scale * factors[Q][1], rtol=1e-6)


def test_ranks_differ_by_pattern(tmp_path, spec, factors):
    a, b = factors[Q]
    pair = np.concatenate([a, a]), np.concatenate([b, b], axis=1)
    folder = write_adapter(tmp_path, factors | {Q: pair}, r=4, rank_pattern={"layers.1.self_attn.q_proj": 8})
    parts = read(folder, spec)
    assert parts["layers.1.q"].a.shape[0] == 8
    assert parts["layers.0.q"].a.shape[0] == 4
    assert np.allclose(parts["layers.1.q"].b, 1.0 * pair[1]), "alpha 8 by rank 8"


def test_packed_projections_are_cut_into_the_weights_rows(tmp_path):
    """Phi 3 has q, k and v in one module, gate and up in another: each weight gets its rows, and the whole first factor."""
    spec = spec_of("phi 3 with longrope")
    factors = random_factors(spec, seed=2)
    parts = read(write_adapter(tmp_path, factors, lora_alpha=4), spec)
    a, b = factors["model.layers.0.self_attn.qkv_proj"]
    rows = np.concatenate([parts[f"layers.0.{name}"].b for name in "qkv"])
    assert np.array_equal(rows, b)
    assert all(np.array_equal(parts[f"layers.0.{name}"].a, a) for name in "qkv")
    gate_up = np.concatenate([parts["layers.0.gate"].b, parts["layers.0.up"].b])
    assert np.array_equal(gate_up, factors["model.layers.0.mlp.gate_up_proj"][1])


def test_every_name_that_peft_and_others_write_is_understood(tmp_path, spec, factors):
    """With the adapter's own name before `.weight`, and with the prefix of a model that also takes images."""
    write_adapter(tmp_path, {Q: factors[Q]})

    def rename(tensors) -> None:
        for name in list(tensors):
            tensors[
                name.replace("_A.weight", "_A.default.weight").replace(".model.layers", ".language_model.model.layers")
            ] = tensors.pop(name)

    rewrite(tmp_path, rename)
    assert list(read(tmp_path, spec)) == ["layers.1.q"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"use_dora": True}, "DoRA, which is not served; merge the adapter"),
        ({"bias": "all"}, "bias is 'all', and trained biases are not served"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which changes the model's own weights"),
        ({"r": 0}, "r is 0; it must be a rank"),
        ({"r": "4"}, "r is '4'; it must be a number"),
        ({"r": True}, "r is True; it must be a number"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"target_modules": 3}, "target_modules is 3"),
        ({"target_modules": ["v_proj"]}, "which target_modules in"),
        ({"r": 10**400}, "r is a huge number; it must be a number"),
        ({"rank_pattern": {"(q+)+": 4}}, "write the modules' names out"),
        ({"rank_pattern": {".?" * 60 + "!": 8}}, "write the modules' names out"),
        ({"rank_pattern": {"(|.)" * 40: 8}}, "write the modules' names out"),
        ({"rank_pattern": {"(a|a)" * 30: 8}}, "write the modules' names out"),
        ({"alpha_pattern": {"(?i)q_proj": 8}}, "write the modules' names out"),
        ({"alpha_pattern": {"q_proj": 10**400}}, "it must be a finite number"),
        ({"alpha_pattern": {"q_proj": "x"}}, "it must be a finite number"),
        ({"r": 8, "rank_pattern": {}}, r"has the shape \[4, 48\]"),
        ({"rank_pattern": {"q_proj": 32}}, "serve with --max-lora-rank 32"),
    ],
)
def test_a_config_that_is_wrong_or_not_served_is_named(fields, words, tmp_path, spec, factors):
    folder = write_adapter(tmp_path, {Q: factors[Q]}, **fields)
    with pytest.raises(ModelLoadError, match=words):
        read(folder, spec)


def _set(name, value):
    def change(tensors) -> None:
        tensors[name] = value

    return change


A, B = f"{PREFIX}{Q}.lora_A.weight", f"{PREFIX}{Q}.lora_B.weight"
NAN = np.full((4, 48), np.nan, np.float32)
LARGE = np.full((96, 4), 3e38, np.float32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.pop(B), "has no lora_B"),
        (_set(A, NAN), "lora_A.weight has elements that are not finite"),
        (_set(B, LARGE), "overflows once it is scaled"),
        (_set(A, np.zeros((4, 47), np.float32)), r"the shape \[4, 47\], where the model .* \[4, 48\]"),
        (_set(B, np.zeros((96, 4), np.int8)), "stored as|can't be read|is of the type"),
        (
            _set(f"{PREFIX}model.layers.9.self_attn.q_proj.lora_A.weight", NAN),
            "model.layers.9.self_attn.q_proj, which this",
        ),
        (_set(f"{PREFIX}lm_head.lora_A.weight", NAN), "adapts lm_head"),
        (_set(f"{PREFIX}model.embed_tokens.lora_embedding_A", NAN), "adapts an embedding"),
        (_set(f"{PREFIX}{Q}.lora_magnitude_vector", NAN), "belongs to DoRA"),
        (_set(f"{PREFIX}lm_head.modules_to_save.weight", NAN), "trained beside the adapter"),
        (_set(f"{PREFIX}{Q}.weight", NAN), "is no factor of an adapter"),
        (_set(A.replace("lora_A", "lora_A.default"), NAN), "are the same factor"),
    ],
)
def test_a_damaged_or_foreign_tensor_is_named(change, words, tmp_path, spec, factors):
    folder = write_adapter(tmp_path, {Q: factors[Q]})
    rewrite(folder, change)
    with pytest.raises(ModelLoadError, match=words) as error:
        read(folder, spec)
    assert "adapter_model.safetensors" in str(error.value)


def test_files_that_are_absent_cut_short_or_pickled_are_named(tmp_path, spec, factors):
    with pytest.raises(ModelLoadError, match=r"No adapter found for .*there is no such folder"):
        read(tmp_path / "none", spec)
    with pytest.raises(ModelLoadError, match=r"it has no adapter_config.json"):
        read(tmp_path, spec)
    write_config(tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelLoadError, match="a pickled file can run code, and is never read"):
        read(tmp_path, spec)
    write_adapter(tmp_path, factors)
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelLoadError, match=r"adapter_model.safetensors"):
        read(tmp_path, spec)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(ModelLoadError, match="can't be read as JSON"):
        read(tmp_path, spec)


def test_paths_are_folders_uris_or_names_of_a_hub(tmp_path):
    """A path that does not exist is no question to a hub; another scheme is refused."""
    assert adapter_folder(str(tmp_path)) == tmp_path
    assert adapter_folder(f"file://{tmp_path}") == tmp_path
    assert str(adapter_folder("/nowhere/at/all")) == "/nowhere/at/all"
    with pytest.raises(ModelLoadError, match="s3://x: write a folder"):
        adapter_folder("s3://x")


def gguf_name(kind: str) -> str | None:
    config = tiny_models.config_of(kind)
    architecture = BY_MODEL_TYPE.get(config.model_type) or BY_HF_CLASS.get(config.architectures[0])
    return None if architecture is None else architecture.gguf_name


GGUF_KINDS = {kind: name for kind in tiny_models.MODELS if (name := gguf_name(kind)) is not None}


@pytest.mark.parametrize("kind", GGUF_KINDS)
def test_modules_of_a_gguf_file_have_the_names_of_the_models_checkpoint(kind):
    """Either all names that the checkpoint has, with their rows, or none."""
    plain = spec_of(kind)
    as_gguf = dataclasses.replace(plain, architecture=GGUF_KINDS[kind])
    found, expected = adapted_modules(as_gguf), adapted_modules(plain)
    if found:
        assert {m: [(p.weight.name, p.rows) for p in parts] for m, parts in found.items()} == {
            m: [(p.weight.name, p.rows) for p in parts] for m, parts in expected.items()
        }


def test_the_elements_of_an_adapter_follow_from_the_weights(spec):
    """Rank 4 to q, k, v, o, gate, up and down of three layers."""
    expected = 3 * 4 * ((96 + 48) + 2 * (32 + 48) + (48 + 96) + 3 * (80 + 48))
    assert adapter_elements(spec, 4) == expected


def test_experts_and_latent_attention_are_not_adapted(tmp_path):
    """The refusal names them; what is beside them can be adapted."""
    assert not any("self_attn" in module for module in adapted_modules(spec_of("deepseek v3")))
    mixture = spec_of("mixtral")
    assert all("self_attn" in module for module in adapted_modules(mixture))
    module = "model.layers.0.block_sparse_moe.experts.0.w1"
    folder = write_adapter(tmp_path, {module: (np.zeros((4, 48), np.float32), np.zeros((80, 4), np.float32))})
    with pytest.raises(ModelLoadError, match="experts, latent attention, embeddings and heads can't"):
        read(folder, mixture)


def test_the_config_is_what_peft_writes(tmp_path, spec, factors):
    """Fields of training that change nothing here are not looked at."""
    folder = write_adapter(tmp_path, factors)
    path = folder / "adapter_config.json"
    extra = {
        "lora_dropout": 0.1,
        "inference_mode": True,
        "task_type": "CAUSAL_LM",
        "revision": None,
        "fan_in_fan_out": False,
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | extra))
    assert len(read(folder, spec)) == 21
