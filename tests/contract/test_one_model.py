"""Planner and engine read a model's files alike: one description, one verdict on a damaged file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from octavo_testing.gguf_files import llama_arrays, llama_metadata, write_gguf
from safetensors.numpy import save_file

from octavo_engine.config import ModelConfig
from octavo_engine.errors import ModelLoadError
from octavo_engine.weights import model_spec as engine
from octavo_engine.weights.source import resolve
from octavo_models import from_hf_config
from octavo_operator.api.model import Model
from octavo_operator.description import sources as planner

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 256,
}


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:2000],
        lambda whole: whole[:8] + b"\xff" * 8 + whole[16:],
        lambda whole: whole.replace(b"blk.0.attn_k.weight", b"blk.0.attn_q.weight"),
        lambda whole: whole.replace(b"llama.block_count", b"llama.head_counts"),
        lambda whole: whole[:-64],
        lambda whole: b"version https://git-lfs.github.com/spec/v1\n",
    ],
    ids=["cut", "counts", "tensor twice", "key missing", "data cut", "pointer"],
)
def test_a_file_that_the_engine_would_refuse_is_unknown_to_the_planner_for_the_same_reason(tmp_path, damage):
    path = write_gguf(tmp_path / "m.gguf", llama_arrays(), llama_metadata())
    path.write_bytes(damage(path.read_bytes()))
    why = planner.describe(Model.model_validate({"uri": f"file://{path}"}), offline=True).why_unknown
    config = ModelConfig(model=str(path), served_model_names=("m",))
    with pytest.raises(ModelLoadError) as refused:
        engine.read_spec(config, resolve(config, lambda *_: None))
    assert why == str(refused.value)


def test_both_describe_one_model_and_every_piece_of_it(tmp_path):
    arrays, names = llama_arrays(), list(llama_arrays())
    for number, part in enumerate((names[:5], names[5:])):
        metadata = (llama_metadata() if number == 0 else {}) | {"split.no": number, "split.count": 2}
        write_gguf(tmp_path / f"m-{number + 1:05}-of-00002.gguf", {name: arrays[name] for name in part}, metadata)
    described = planner.describe(Model.model_validate({"uri": f"file://{tmp_path}"}), offline=True)
    assert described.why_unknown == ""
    config = ModelConfig(model=str(tmp_path), served_model_names=("m",))
    assert described.spec == engine.read_spec(config, resolve(config, lambda *_: None))
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    why = planner.describe(Model.model_validate({"uri": f"file://{tmp_path}"}), offline=True).why_unknown
    assert "m-00002-of-00002.gguf can't be read" in why


@pytest.mark.parametrize("says_tied", [True, False])
@pytest.mark.parametrize("head", ["none", "a copy", "its own"])
@pytest.mark.parametrize("sharded", [False, True])
def test_both_read_head_and_dtype_out_of_the_weights_next_to_a_config(tmp_path, says_tied, head, sharded):
    config = CONFIG | {"tie_word_embeddings": says_tied, "torch_dtype": "float32"}
    weights = from_hf_config(CONFIG).weights
    random = np.random.default_rng(4)
    arrays = {w.sources[0].tensor: random.normal(size=w.shape).astype(np.float16) for w in weights}
    if head == "none":
        arrays.pop("lm_head.weight")
    elif head == "a copy":
        arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"].copy()
    (tmp_path / "config.json").write_text(json.dumps(config))
    names = sorted(arrays)
    parts = {"a.safetensors": names[:3], "b.safetensors": names[3:]} if sharded else {"model.safetensors": names}
    for file, part in parts.items():
        save_file({name: arrays[name] for name in part}, tmp_path / file)
    if sharded:
        index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    spec = planner.describe(Model.model_validate({"uri": f"file://{tmp_path}"}), offline=True).spec
    asked = ModelConfig(model=str(tmp_path), served_model_names=("m",))
    assert spec == engine.read_spec(asked, resolve(asked, lambda *_: None))
    assert spec is not None
    assert spec.tied_head is (head != "its own")
    held = sum(array.nbytes for name, array in arrays.items() if head != "a copy" or name != "lm_head.weight")
    assert spec.weight_bytes() == held


def test_a_damaged_safetensors_file_is_unknown_to_the_planner_for_the_engines_reason(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").write_bytes((5000).to_bytes(8, "little") + b"{}")
    why = planner.describe(Model.model_validate({"uri": f"file://{tmp_path}"}), offline=True).why_unknown
    asked = ModelConfig(model=str(tmp_path), served_model_names=("m",))
    with pytest.raises(ModelLoadError) as refused:
        engine.read_spec(asked, resolve(asked, lambda *_: None))
    assert why == str(refused.value)
