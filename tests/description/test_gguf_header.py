"""A GGUF file is described by its header alone, and a damaged one is a sentence."""

import io
import json
import struct

import numpy as np
import pytest

from octavo_models import InvalidConfigError, UnsupportedModelError
from octavo_models.gguf_header import read_gguf_header
from octavo_operator.api.model import Model
from octavo_operator.description.sources import describe


def gguf(path, *, factors: bool = False):
    """A small llama with a long vocabulary, written by the format's own library."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_context_length(1024)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list([f"token{i}" for i in range(5000)])
    writer.add_token_scores([0.0] * 5000)
    shapes = {
        "token_embd": (5000, 64),
        "output_norm": (64,),
        "blk.0.attn_norm": (64,),
        "blk.0.ffn_norm": (64,),
        "blk.0.attn_q": (64, 64),
        "blk.0.attn_k": (32, 64),
        "blk.0.attn_v": (32, 64),
        "blk.0.attn_output": (64, 64),
        "blk.0.ffn_gate": (96, 64),
        "blk.0.ffn_up": (96, 64),
        "blk.0.ffn_down": (64, 96),
    }
    if factors:
        writer.add_tensor("rope_freqs.weight", np.arange(1, 9, dtype=np.float32))
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.zeros(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_header_says_keys_and_tensors(tmp_path):
    with gguf(tmp_path / "m.gguf").open("rb") as file:
        header = read_gguf_header(file)
    assert header.metadata["llama.attention.head_count_kv"] == 2
    tensor = header.tensors["blk.0.attn_k.weight"]
    assert (tensor.format, tensor.shape, tensor.nbytes) == ("f32", (32, 64), 8192)
    assert header.rope_factors is None


def test_rotary_factors_are_read_from_their_tensor(tmp_path):
    with gguf(tmp_path / "m.gguf", factors=True).open("rb") as file:
        assert read_gguf_header(file).rope_factors == tuple(float(i) for i in range(1, 9))


def test_every_cut_of_the_header_is_a_sentence(tmp_path):
    whole = gguf(tmp_path / "m.gguf").read_bytes()
    for length in (0, 3, 4, 8, 20, 24, 60, 300, 5000, 40_000):
        with pytest.raises(InvalidConfigError, match=r"isn't a GGUF|cut short"):
            read_gguf_header(io.BytesIO(whole[:length]))


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"GGUF" + struct.pack("<I", 9), UnsupportedModelError),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 0), InvalidConfigError),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 50), InvalidConfigError),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 99), InvalidConfigError),
        # Arrays in arrays, without end.
        (
            b"GGUF" + struct.pack("<IQQQ1s", 3, 0, 1, 1, b"k") + struct.pack("<IIQ", 9, 9, 1) * 50_000,
            InvalidConfigError,
        ),
        # A string of half the address space, a rank of 9, an alignment of 0 and one that isn't a number.
        (b"GGUF" + struct.pack("<IQQQ1sIQ", 3, 0, 1, 1, b"k", 8, 1 << 63), InvalidConfigError),
        (b"GGUF" + struct.pack("<IQQQ1sI9QIQ", 3, 1, 0, 1, b"t", 9, *[1] * 9, 0, 0), InvalidConfigError),
        (b"GGUF" + struct.pack("<IQQQ17sII", 3, 0, 1, 17, b"general.alignment", 4, 0), InvalidConfigError),
        (b"GGUF" + struct.pack("<IQQQ17sIQ", 3, 0, 1, 17, b"general.alignment", 8, 0), InvalidConfigError),
    ],
)
def test_a_header_that_claims_the_impossible_is_refused(data, error):
    with pytest.raises(error):
        read_gguf_header(io.BytesIO(data + b"\0" * 64))


def test_a_file_with_the_manifest_is_described(tmp_path):
    gguf(tmp_path / "m.gguf")
    model = Model.model_validate({"uri": f"file://{tmp_path}/m.gguf"})
    assert describe(model, offline=True).spec.num_parameters > 5000 * 64
    folder = Model.model_validate({"uri": f"file://{tmp_path}"})
    assert describe(folder, offline=True).spec == describe(model, offline=True).spec


@pytest.mark.parametrize("name", ["model", "M.GGUF", "sha256-0123"])
def test_a_gguf_file_is_known_by_its_content_whatever_its_name(tmp_path, name):
    path = gguf(tmp_path / name)
    for uri in (f"file://{path}", f"file://{tmp_path}"):
        model = Model.model_validate({"uri": uri} | ({"file": name} if uri.endswith(str(tmp_path)) else {}))
        assert describe(model, offline=True).spec is not None


def test_a_config_with_a_byte_order_mark_is_read(tmp_path):
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    others = {"vocab_size": 100, "max_position_embeddings": 256}
    config = json.dumps({"architectures": ["LlamaForCausalLM"]} | sizes | others)
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf" + config.encode())
    assert describe(Model.model_validate({"uri": f"file://{tmp_path}"}), offline=True).spec is not None


def test_of_several_files_one_has_to_be_named(tmp_path):
    gguf(tmp_path / "a.gguf")
    gguf(tmp_path / "b.gguf")
    model = Model.model_validate({"uri": f"file://{tmp_path}"})
    assert "holds 2 GGUF files; model.file names one" in describe(model, offline=True).why_unknown
    named = Model.model_validate({"uri": f"file://{tmp_path}", "file": "a.gguf"})
    assert describe(named, offline=True).spec is not None


def test_a_package_in_the_engines_cache_is_described(tmp_path, monkeypatch):
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path))
    model = Model.model_validate({"uri": "package://Some_Model"})
    assert "is not fetched yet" in describe(model, offline=True).why_unknown
    folder = tmp_path / "packages" / "some-model" / "1.0-abc"
    (folder / "inner").mkdir(parents=True)
    gguf(folder / "inner" / "m.gguf")
    assert describe(model, offline=True).spec is None  # it is not whole yet
    (folder / "octavo-fetched.json").write_text("{}")
    assert describe(model, offline=True).spec is not None


def test_a_model_in_the_hubs_cache_is_described(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    model = Model.model_validate({"uri": "hf://org/name", "file": "m.gguf"})
    assert "is not on this machine" in describe(model, offline=True).why_unknown
    repository = tmp_path / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("c0ffee")
    (repository / "snapshots" / "c0ffee").mkdir(parents=True)
    gguf(repository / "snapshots" / "c0ffee" / "m.gguf")
    assert describe(model, offline=True).spec is not None
