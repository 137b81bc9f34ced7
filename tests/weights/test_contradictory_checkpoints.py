"""A checkpoint that lacks a tensor, or has another than its description says, ends in one sentence.

The sentence names the file, the tensor and the remedy, and comes before any weight is read. Every tensor of every layout
is tried: stacked experts, experts in files of their own, packed q, k and v, transposed matrices.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from octavo_testing.gguf_files import llama_arrays, llama_metadata, write_gguf
from octavo_testing.tiny_models import KINDS, QUICK, config_json
from safetensors.numpy import save_file

from octavo_engine.config import ModelConfig
from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.dummy import DummyCheckpoint
from octavo_engine.weights.load import load_weights, open_checkpoint
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve
from octavo_models import from_hf_config

REMEDY = "; fetch all files of the model again, from one place"


def load(folder):
    """All weights of the model in a folder, or in a GGUF file."""
    model = ModelConfig(model=str(folder), served_model_names=("m",))
    files = resolve(model, lambda *_: None)
    spec = read_spec(model, files)
    checkpoint = open_checkpoint(files)
    try:
        return dict(load_weights(spec, checkpoint))
    finally:
        checkpoint.close()


def refusal(folder):
    """The sentence in which loading ends."""
    with pytest.raises(ModelLoadError) as refused:
        load(folder)
    message = str(refused.value)
    assert "\n" not in message
    assert not message.endswith(".")
    return message


class Altered(DummyCheckpoint):
    """A checkpoint with other headers, of which nothing may be read."""

    def read(self, name, rows=None):
        raise AssertionError(f"{name} is read before all headers are checked")


@pytest.mark.parametrize("kind", [pytest.param(k, marks=() if k in QUICK else pytest.mark.slow) for k in KINDS])
def test_each_tensor_of_each_layout_must_be_there_in_its_shape(kind):
    spec = from_hf_config(config_json(kind))
    checkpoint = Altered(spec)
    assert checkpoint.tensors
    for name, tensor in list(checkpoint.tensors.items()):
        del checkpoint.tensors[name]
        with pytest.raises(ModelLoadError, match=re.escape(f"dummy: tensor {name} is missing{REMEDY}")):
            next(load_weights(spec, checkpoint))
        for axis in range(len(tensor.shape)):
            shape = tuple(n + (i == axis) for i, n in enumerate(tensor.shape))
            checkpoint.tensors[name] = replace(tensor, shape=shape)
            words = (
                f"dummy: tensor {name} has the shape {list(shape)}, which the model's config makes {list(tensor.shape)}"
            )
            with pytest.raises(ModelLoadError, match=re.escape(words + REMEDY)):
                next(load_weights(spec, checkpoint))
        checkpoint.tensors[name] = tensor


def stored(config, folder, *, files=1, change=lambda arrays: None):
    """Write the model of a config, its tensors over several files with an index where there are more than one."""
    checkpoint = DummyCheckpoint(from_hf_config(config))
    arrays = {
        name: np.frombuffer(checkpoint.read(name), np.float32).reshape(tensor.shape)
        for name, tensor in checkpoint.tensors.items()
    }
    change(arrays)
    (folder / "config.json").write_text(json.dumps(config))
    names = sorted(arrays)
    paths = [f"model-{i:05}-of-{files:05}.safetensors" for i in range(1, files + 1)]
    where = {name: paths[i % files] for i, name in enumerate(names)}
    for path in paths:
        save_file({name: arrays[name] for name in names if where[name] == path}, folder / path)
    if files > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return where


PACKED = {"phi 3": "qkv_proj", "falcon 40b": "query_key_value", "internlm 2": "wqkv"}


@pytest.mark.parametrize("kind", PACKED)
def test_a_config_with_another_number_of_kv_heads_does_not_fit_packed_rows(tmp_path, kind):
    """q, k and v one after another, by KV heads, and by groups of heads."""
    config = config_json(kind)
    stored(config, tmp_path)
    field = "num_kv_heads" if "num_kv_heads" in config else "num_key_value_heads"
    (tmp_path / "config.json").write_text(json.dumps(config | {field: config[field] + 1}))
    words = rf"safetensors: tensor \S*0\.\S*{PACKED[kind]}\.weight has the shape \[80, 48\], which .* makes \[96, 48\]"
    assert re.search(words + REMEDY, refusal(tmp_path))


@pytest.mark.parametrize(
    ("kind", "field", "tensor"),
    [
        ("gpt-oss", "num_local_experts", "router.weight"),
        ("llama 4", "num_local_experts", "router.weight"),
        ("mixtral", "num_local_experts", "gate.weight"),
        ("dbrx", "ffn_config", "router.layer.weight"),
    ],
)
@pytest.mark.parametrize("more", [1, -1])
def test_a_config_with_another_number_of_experts_does_not_fit_the_router(tmp_path, kind, field, tensor, more):
    config = config_json(kind)
    stored(config, tmp_path)
    value = config[field]
    key = "moe_num_experts"
    other = value | {key: value[key] + more} if isinstance(value, dict) else value + more
    (tmp_path / "config.json").write_text(json.dumps(config | {field: other}))
    assert re.search(rf"safetensors: tensor \S*{tensor} has the shape \[5, .*{REMEDY}", refusal(tmp_path))


def test_a_layer_that_the_config_does_not_count_is_named_with_a_warning(tmp_path, caplog):
    """Layers that predict further tokens follow the others, and are counted apart."""
    stored(config_json("phi 3"), tmp_path)
    assert not [line for line in caplog.messages if "layers" in line]
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    load(tmp_path)
    (line,) = caplog.messages
    assert "the config has 2 layers, and the weights hold tensor model.layers.2." in line
    assert "fetch config.json and all files of the model again" in line
    caplog.clear()
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2, "num_nextn_predict_layers": 1}))
    load(tmp_path)
    assert not caplog.messages


def test_tensors_that_share_bytes_are_named(tmp_path):
    """The second one's offsets became the first one's."""
    stored(config_json("phi 3"), tmp_path)
    file = tmp_path / "model-00001-of-00001.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    size = [entry["data_offsets"][1] - entry["data_offsets"][0] for entry in header.values() if "dtype" in entry]
    same = [name for name, entry in header.items() if "dtype" in entry]
    first, second = next((a, b) for i, a in enumerate(same) for j, b in enumerate(same[:i]) if size[i] == size[j])
    header[first]["data_offsets"] = header[second]["data_offsets"]
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    assert re.search(r"model-\S+: tensor \S+ begins at byte \d+, inside tensor \S+; fetch", refusal(tmp_path))


def test_an_expert_whose_file_lies_elsewhere_is_named(tmp_path):
    def without_one(arrays):
        (name,) = [name for name in arrays if re.search(r"layers\.1\..*experts\.3\.(w2|down_proj)", name)]
        del arrays[name]

    stored(config_json("mixtral"), tmp_path, files=3, change=without_one)
    assert re.search(rf"tensor model\.layers\.1\.\S*experts\.3\.\S+ is missing{REMEDY}", refusal(tmp_path))


def test_a_file_that_the_index_names_must_be_there(tmp_path):
    where = stored(config_json("mixtral"), tmp_path, files=3)
    (tmp_path / sorted(set(where.values()))[1]).unlink()
    assert re.search(r"model-00002-of-00003\.safetensors: the index names this file, .*; fetch it", refusal(tmp_path))


def test_a_file_that_is_cut_short_is_named_with_a_tensor_that_it_lacks(tmp_path):
    where = stored(config_json("gpt-oss"), tmp_path, files=2)
    path = tmp_path / max(where.values())
    path.write_bytes(path.read_bytes()[:-100])
    words = r"00002-of-00002\.safetensors: tensor \S+ ends at byte \d+, .* it is cut short; fetch the file again"
    assert re.search(words, refusal(tmp_path))


def test_experts_in_different_formats_are_named(tmp_path):
    def narrowed(arrays):
        (name,) = [name for name in arrays if re.search(r"layers\.0\..*experts\.2\.(w1|gate_proj)", name)]
        arrays[name] = arrays[name].astype(np.float16)

    stored(config_json("mixtral"), tmp_path, change=narrowed)
    words = (
        r"tensor \S*experts\.2\.\S+ is stored as f16, and \S*experts\.0\.\S+, which it is joined with, as f32; fetch a"
    )
    assert re.search(words, refusal(tmp_path))


def test_a_matrix_of_numbers_that_are_no_weights_is_named(tmp_path):
    def quantized(arrays):
        (name,) = [name for name in arrays if name.endswith("h.1.attn.c_proj.weight")]
        arrays[name] = arrays[name].astype(np.int8)

    stored(config_json("gpt 2"), tmp_path, change=quantized)
    assert re.search(
        r"safetensors: tensor \S*h\.1\.attn\.c_proj\.weight is stored as i8, where f32 belongs; fetch the plain model",
        refusal(tmp_path),
    )


def mixture(change=lambda arrays: None, **metadata):
    """The arrays and metadata of a small Qwen 2 with four experts as a GGUF file has them."""
    rng = np.random.default_rng(3)
    arrays = {name: array for name, array in llama_arrays(quantized=False).items() if ".ffn_" not in name}
    for i in range(2):
        shapes = {
            "ffn_norm": (64,),
            "ffn_gate_inp": (4, 64),
            "ffn_gate_exps": (4, 32, 64),
            "ffn_up_exps": (4, 32, 64),
            "ffn_down_exps": (4, 64, 32),
            "ffn_gate_inp_shexp": (64,),
            "ffn_gate_shexp": (48, 64),
            "ffn_up_shexp": (48, 64),
            "ffn_down_shexp": (64, 48),
        }
        arrays |= {f"blk.{i}.{name}.weight": rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}
    change(arrays)
    fields = {key.replace("llama.", "qwen2moe."): value for key, value in llama_metadata().items()}
    numbers = {
        "expert_count": 4,
        "expert_used_count": 2,
        "expert_feed_forward_length": 32,
        "expert_shared_feed_forward_length": 48,
    }
    return arrays, fields | {f"qwen2moe.{key}": value for key, value in (numbers | metadata).items()}


def test_the_mixture_that_is_altered_below_is_loaded(tmp_path):
    assert load(write_gguf(tmp_path / "m.gguf", *mixture(), "qwen2moe"))


@pytest.mark.parametrize(
    ("change", "metadata", "words"),
    [
        (lambda arrays: arrays.pop("blk.1.ffn_up_exps.weight"), {}, r"tensor blk\.1\.ffn_up_exps\.weight is missing"),
        (
            lambda arrays: arrays.update({"blk.1.ffn_up_exps.weight": np.zeros((3, 32, 64), np.float32)}),
            {},
            r"tensor blk\.1\.ffn_up_exps\.weight has the shape \[3, 32, 64\], which the metadata makes \[4, 32, 64\]",
        ),
        (lambda arrays: None, {"expert_count": 5}, r"ffn_gate_inp\.weight has the shape \[4, 64\], .* makes \[5, 64\]"),
        (
            lambda arrays: None,
            {"attention.head_count_kv": 4},
            r"attn_k\.weight has the shape \[32, 64\], which the metadata makes \[64, 64\]",
        ),
    ],
)
def test_a_gguf_file_whose_metadata_belongs_to_another_model_is_refused(tmp_path, change, metadata, words):
    path = write_gguf(tmp_path / "m.gguf", *mixture(change, **metadata), "qwen2moe")
    assert re.search(rf"m\.gguf: .*{words}{REMEDY}", refusal(path))


def test_a_gguf_file_that_is_cut_short_is_named_with_a_tensor_that_it_lacks(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", *mixture(), "qwen2moe")
    path.write_bytes(path.read_bytes()[:-100])
    words = r"m\.gguf: tensor \S+ ends at byte \d+, past .* it is cut short; fetch the file again"
    assert re.search(words, refusal(path))
