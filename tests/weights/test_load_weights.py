"""Weights reach an executor as the spec names them: rows as stored, in one order, and from files that stay as they are."""

from __future__ import annotations

import dataclasses
import json
import os
from contextlib import closing
from pathlib import Path

import gguf
import numpy as np
import pytest
from octavo_testing.gguf_files import HEAD_DIM, HEADS, HIDDEN, KV_HEADS, llama_arrays, llama_metadata, write_gguf
from safetensors.numpy import save_file

from octavo_engine.config import ModelConfig, ModelFiles
from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.dequantize import dequantize
from octavo_engine.weights.load import LoadedWeight, load_pieces, load_weights, open_checkpoint
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve
from octavo_engine.weights.weight_file import WeightFile
from octavo_models import ModelSpec, from_hf_config
from octavo_models.formats import WEIGHT_FORMATS

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "vocab_size": 100,
    "max_position_embeddings": 256,
    "dtype": "float32",
}
DUMMY = ModelFiles(folder=Path(), config=None, weights=(), weights_format="dummy", tokenizer=None)


def model(path: Path, **fields) -> ModelConfig:
    return ModelConfig(model=str(path), served_model_names=("m",), **fields)


def load(path: Path) -> tuple[ModelSpec, dict[str, LoadedWeight]]:
    config = model(path)
    files = resolve(config, lambda *_: None)
    spec = read_spec(config, files)
    with closing(open_checkpoint(files)) as checkpoint:
        return spec, {weight.name: loaded for weight, loaded in load_weights(spec, checkpoint)}


def hf_folder(folder: Path, arrays: dict[str, np.ndarray], config: dict | None = None) -> Path:
    (folder / "config.json").write_text(json.dumps(config or CONFIG))
    save_file(arrays, folder / "model.safetensors")
    return folder


def hf_arrays(dtype: type = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {w.sources[0].tensor: rng.normal(0, 1, w.shape).astype(dtype) for w in from_hf_config(CONFIG).weights}


def permuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """A matrix as converters to GGUF store q and k of the Llama family: halves of a head become neighbours."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def test_a_gguf_file_is_loaded_in_the_order_of_its_spec_with_nothing_missing(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", llama_arrays(), llama_metadata())
    spec, loaded = load(path)
    assert list(loaded) == [weight.name for weight in spec.weights]
    for weight in spec.weights:
        each = loaded[weight.name]
        assert (each.format, each.shape) == (weight.format, weight.shape)
        assert each.data.nbytes == weight.nbytes
        assert each.data.flags.c_contiguous


@pytest.mark.parametrize("quantized", [True, False])
def test_permuted_rows_come_back_in_their_order_whole_quantized_rows_too(tmp_path, quantized):
    arrays = llama_arrays(quantized)
    path = write_gguf(tmp_path / "m.gguf", arrays, llama_metadata())
    _, loaded = load(path)
    for name, heads in (("q", HEADS), ("k", KV_HEADS)):
        stored = arrays[f"blk.1.attn_{name}.weight"]
        rows = gguf.quants.dequantize(*stored) if isinstance(stored, tuple) else stored
        each = loaded[f"layers.1.{name}"]
        np.testing.assert_array_equal(permuted(dequantize(each.format, each.data), heads), rows)
        assert each.data.shape[0] == heads * HEAD_DIM


def test_permuted_biases_come_back_in_their_order(tmp_path):
    arrays = llama_arrays()
    for i in range(2):
        for name, size in (("q", HIDDEN), ("k", KV_HEADS * HEAD_DIM), ("v", KV_HEADS * HEAD_DIM)):
            arrays[f"blk.{i}.attn_{name}.bias"] = np.arange(size, dtype=np.float32)
    spec, loaded = load(write_gguf(tmp_path / "m.gguf", arrays, llama_metadata()))
    assert spec.layers[0].attention.qkv_bias
    bias = dequantize("f32", loaded["layers.0.q_bias"].data)[0]
    np.testing.assert_array_equal(permuted(bias, HEADS), np.arange(HIDDEN))
    np.testing.assert_array_equal(dequantize("f32", loaded["layers.0.v_bias"].data)[0], np.arange(KV_HEADS * HEAD_DIM))


@pytest.mark.parametrize("weights_format", ["gguf", "safetensors"])
def test_only_the_rows_that_a_rank_needs_are_read(tmp_path, weights_format, monkeypatch):
    if weights_format == "gguf":
        source = write_gguf(tmp_path / "m.gguf", llama_arrays(), llama_metadata())
    else:
        source = hf_folder(tmp_path, hf_arrays())
    spec, whole = load(source)
    read: list[int] = []
    plain = WeightFile.read

    def counted(file: WeightFile, offset: int, count: int) -> memoryview:
        read.append(count)
        return plain(file, offset, count)

    monkeypatch.setattr(WeightFile, "read", counted)
    rows = {"embedding": (60, 120), "layers.0.q": (16, 32), "layers.1.gate": (0, 48)}
    files = resolve(model(source), lambda *_: None)
    with closing(open_checkpoint(files)) as checkpoint:
        read.clear()
        ranges = {name: (wanted,) for name, wanted in rows.items()}
        loaded = {weight.name: next(pieces) for weight, pieces in load_pieces(spec, checkpoint, ranges, 1 << 20)}
    for name, each in loaded.items():
        first, last = rows.get(name, (0, None))
        np.testing.assert_array_equal(each.data, whole[name].data[first:last])
        assert each.shape[0] == len(each.data) if len(each.shape) > 1 else len(each.data) == 1
    moved = {"layers.0.q"} if weights_format == "gguf" else set()  # GGUF has other rows in their place
    assert sum(read) == sum((whole if name in moved else loaded)[name].data.nbytes for name in loaded)


@pytest.mark.parametrize("weights_format", ["gguf", "safetensors"])
@pytest.mark.parametrize("damage", ["cut", "rewritten", "grown"])
def test_a_file_that_is_changed_while_it_is_loaded_ends_in_one_sentence(tmp_path, weights_format, damage):
    if weights_format == "gguf":
        source = path = write_gguf(tmp_path / "m.gguf", llama_arrays(), llama_metadata())
    else:
        source = hf_folder(tmp_path, hf_arrays())
        path = source / "model.safetensors"
    files = resolve(model(source), lambda *_: None)
    spec = read_spec(model(source), files)
    with closing(open_checkpoint(files)) as checkpoint:
        weights = load_weights(spec, checkpoint)
        next(weights)
        if damage == "cut":
            os.truncate(path, 5000)
        elif damage == "grown":
            with path.open("ab") as file:
                file.write(b"more")
        else:
            with path.open("r+b") as file:
                file.write(b"x")
            os.utime(path, ns=(0, 1))
        with pytest.raises(ModelLoadError, match=rf"{path.name}: it was changed while it was being loaded"):
            list(weights)


def test_a_file_that_is_replaced_while_it_is_loaded_is_read_as_it_was(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", llama_arrays(), llama_metadata())
    files = resolve(model(path), lambda *_: None)
    spec = read_spec(model(path), files)
    with closing(open_checkpoint(files)) as checkpoint:
        (tmp_path / "new").write_bytes(b"another model")
        (tmp_path / "new").rename(path)
        assert sum(loaded.data.nbytes for _, loaded in load_weights(spec, checkpoint)) == spec.weight_bytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_folder_is_loaded_in_the_dtype_that_its_file_has_whatever_the_config_says(tmp_path, dtype):
    arrays = hf_arrays(dtype)
    spec, loaded = load(hf_folder(tmp_path, arrays))
    assert {weight.format for weight in spec.weights} == {"f32" if dtype is np.float32 else "f16"}
    assert spec.weight_bytes() == sum(array.nbytes for array in arrays.values())
    np.testing.assert_array_equal(
        dequantize(loaded["layers.1.down"].format, loaded["layers.1.down"].data),
        arrays["model.layers.1.mlp.down_proj.weight"].astype(np.float32),
    )


def test_a_config_without_dtype_takes_that_of_the_weights(tmp_path):
    config = {key: value for key, value in CONFIG.items() if key != "dtype"}
    spec, _ = load(hf_folder(tmp_path, hf_arrays(np.float16), config))
    assert spec.dtype == "float16"


def test_sharded_weights_are_found_through_their_index(tmp_path):
    arrays = hf_arrays()
    names = sorted(arrays)
    shards = {"model-00001-of-00002.safetensors": names[:7], "model-00002-of-00002.safetensors": names[7:]}
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    for shard, part in shards.items():
        save_file({name: arrays[name] for name in part}, tmp_path / shard)
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    _, loaded = load(tmp_path)
    np.testing.assert_array_equal(dequantize("f32", loaded["head"].data), arrays["lm_head.weight"])
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"model-00002-of-00002\.safetensors: the index names this file"):
        load(tmp_path)


def test_a_missing_tensor_is_named_with_its_file(tmp_path):
    arrays = hf_arrays()
    del arrays["model.layers.1.self_attn.k_proj.weight"]
    with pytest.raises(
        ModelLoadError, match=r"model\.safetensors: tensor model\.layers\.1\.self_attn\.k_proj\.weight is"
    ):
        load(hf_folder(tmp_path, arrays))


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tmp_path):
    arrays = hf_arrays()
    arrays["model.norm.weight"] = np.ones(65, np.float32)
    with pytest.raises(ModelLoadError, match=r"model\.norm\.weight has the shape \[65\], which .* makes \[64\]"):
        load(hf_folder(tmp_path, arrays))


def test_a_tensor_of_a_dtype_that_no_executor_reads_is_named(tmp_path):
    arrays = hf_arrays()
    arrays["lm_head.weight"] = arrays["lm_head.weight"].astype(np.float64)
    with pytest.raises(ModelLoadError, match=r"model\.safetensors: tensor lm_head\.weight is stored as f64"):
        load(hf_folder(tmp_path, arrays))


def test_a_config_that_is_no_json_is_named(tmp_path):
    hf_folder(tmp_path, hf_arrays())
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelLoadError, match=r"config\.json: it can't be read as JSON"):
        load(tmp_path)


def test_an_unknown_architecture_is_named_with_the_config_that_says_it(tmp_path):
    hf_folder(tmp_path, hf_arrays(), CONFIG | {"architectures": ["MambaForCausalLM"]})
    with pytest.raises(ModelLoadError, match=r"config\.json: architecture 'MambaForCausalLM' is not supported"):
        load(tmp_path)


def test_rotary_factors_are_read_out_of_a_gguf_file(tmp_path):
    arrays = llama_arrays() | {"rope_freqs.weight": np.linspace(1, 8, HEAD_DIM // 2, dtype=np.float32)}
    spec, _ = load(write_gguf(tmp_path / "m.gguf", arrays, llama_metadata()))
    rotary = spec.layers[0].attention.rotary
    assert rotary is not None
    assert rotary.inverse_frequencies()[-1] == pytest.approx(10000.0 ** (-14 / 16) / 8)


@pytest.mark.parametrize("format_", WEIGHT_FORMATS)
def test_dummy_weights_are_small_the_same_each_time_and_leave_norms_alone(format_):
    wide = CONFIG | {"hidden_size": 256, "intermediate_size": 512}
    plain = from_hf_config(wide)
    spec = dataclasses.replace(
        plain,
        weights=tuple(dataclasses.replace(w, format=format_ if len(w.shape) > 1 else "f32") for w in plain.weights),
    )
    first, again, other = (dict(weights_by_name(spec, seed)) for seed in (0, 0, 1))
    assert all((first[name] == again[name]).all() for name in first)
    assert (first["layers.0.q"] != other["layers.0.q"]).any()
    assert (first["layers.0.q"] != first["layers.1.q"]).any()
    np.testing.assert_array_equal(first["final_norm"], np.ones((1, 256), np.float32))
    matrix = first["layers.1.down"]
    assert abs(float(matrix.mean())) < 0.005
    assert 0.005 < float(matrix.std()) < 0.05
    assert np.isfinite(matrix).all()


def weights_by_name(spec: ModelSpec, seed: int):
    for weight, loaded in load_weights(spec, open_checkpoint(DUMMY, spec, seed)):
        yield weight.name, dequantize(loaded.format, loaded.data)


def test_dummy_norms_of_gemma_are_stored_without_their_one():
    config = CONFIG | {"architectures": ["Gemma3ForCausalLM"], "head_dim": 16, "sliding_window": 32}
    loaded = dict(weights_by_name(from_hf_config(config), 0))
    assert not loaded["layers.0.post_mlp_norm"].any()
    assert not loaded["layers.0.q_norm"].any()


def test_a_config_alone_is_enough_for_dummy_weights(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    config = model(tmp_path, load_format="dummy")
    files = resolve(config, lambda *_: None)
    spec = read_spec(config, files)
    assert files.weights_format == "dummy"
    assert len(list(load_weights(spec, open_checkpoint(files, spec)))) == len(spec.weights)


@pytest.mark.parametrize("load_format", ["dummy", "safetensors"])
def test_a_gguf_file_is_not_loaded_as_another_format(tmp_path, load_format):
    path = write_gguf(tmp_path / "m.gguf", llama_arrays(), llama_metadata())
    config = model(path, load_format=load_format)
    with pytest.raises(
        ModelLoadError, match=rf"m\.gguf: --load-format {load_format} needs a folder with a config\.json"
    ):
        read_spec(config, resolve(config, lambda *_: None))


def test_the_real_model_is_described_and_loaded(smollm2):
    spec = read_spec(smollm2.config(), smollm2.files)
    assert spec.num_parameters == 134_515_008
    assert {weight.format for weight in spec.weights} == {"q4_1", "q8_0", "f32"}
    with closing(open_checkpoint(smollm2.files)) as checkpoint:
        total = sum(loaded.data.nbytes for _, loaded in load_weights(spec, checkpoint))
    assert total == spec.weight_bytes()
