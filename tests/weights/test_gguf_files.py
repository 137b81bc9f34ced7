"""GGUF files are read as the gguf package writes and reads them, and a damaged one is refused in one sentence."""

from __future__ import annotations

import struct
import tracemalloc
from contextlib import closing
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from octavo_testing.gguf_files import llama_arrays, llama_metadata, write_gguf
from octavo_testing.properties import accepting, tried

from octavo_engine.config import ModelFiles
from octavo_engine.errors import ModelLoadError
from octavo_engine.text.tokenizer import load_tokenizer
from octavo_engine.weights.gguf import GgufCheckpoint, read_header
from octavo_engine.weights.model_spec import architecture_names
from octavo_engine.weights.weight_file import naming
from octavo_models import InvalidConfigError
from octavo_models.gguf_header import Strings

FEW = tried(150)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "model.gguf", llama_arrays(), llama_metadata())


@pytest.fixture(scope="module")
def original(model) -> bytes:
    return model.read_bytes()


def test_every_type_of_value_comes_back_as_it_was_written(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "values.gguf", "llama")
    scalars = {
        "uint8": 200, "int8": -100, "uint16": 60000, "int16": -30000, "uint32": 4_000_000_000, "int32": -2_000_000_000,
        "uint64": 2**63, "int64": -(2**62), "float32": 0.15625, "float64": 0.1, "bool": True, "string": "naïve ☃",
    }  # fmt: skip
    for kind, value in scalars.items():
        getattr(writer, f"add_{kind}")(f"test.{kind}", value)
    writer.add_array("test.strings", ["a", "", "wörld"])
    writer.add_array("test.integers", [1, -2, 3])
    writer.add_array("test.floats", [0.5, -1.5])
    writer.add_array("test.booleans", [True, False])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    metadata = read_header(tmp_path / "values.gguf").metadata
    assert {kind: metadata[f"test.{kind}"] for kind in scalars} == scalars
    strings = metadata["test.strings"]
    assert isinstance(strings, Strings)
    assert (len(strings), list(strings), strings[2], strings[:2]) == (3, ["a", "", "wörld"], "wörld", ["a", ""])
    assert list(metadata["test.integers"]) == [1, -2, 3]
    assert list(metadata["test.floats"]) == [0.5, -1.5]
    assert list(metadata["test.booleans"]) == [True, False]


def test_tensors_lie_where_the_gguf_package_finds_them(model):
    file = GgufCheckpoint([model])
    for expected in gguf.GGUFReader(model).tensors:
        info = file.tensors[expected.name]
        assert info.format == expected.tensor_type.name.lower()
        assert info.shape == tuple(int(n) for n in reversed(expected.shape))
        assert bytes(file.read(expected.name)) == expected.data.tobytes()
    file.close()


def test_pieces_that_gguf_split_cut_are_one_checkpoint(tmp_path):
    arrays = llama_arrays()
    names = list(arrays)
    first, second = names[:5], names[5:]
    for number, part in enumerate((first, second)):
        metadata = (llama_metadata() if number == 0 else {}) | {"split.no": number, "split.count": 2}
        write_gguf(tmp_path / f"m-{number + 1:05}-of-00002.gguf", {name: arrays[name] for name in part}, metadata)
    paths = sorted(tmp_path.iterdir())
    checkpoint = GgufCheckpoint(paths)
    assert set(checkpoint.tensors) == set(names)
    assert checkpoint.header.metadata["llama.block_count"] == 2
    stored = next(tensor for tensor in gguf.GGUFReader(paths[1]).tensors if tensor.name == second[0])
    assert bytes(checkpoint.read(second[0])) == stored.data.tobytes()
    checkpoint.close()
    with pytest.raises(ModelLoadError, match=r"it is piece 1 of 2, but stands as piece 0 of 2"):
        GgufCheckpoint(paths[::-1])
    with pytest.raises(ModelLoadError, match=r"it is piece 0 of 2, but stands as piece 0 of 1"):
        GgufCheckpoint(paths[:1])


def test_a_tensor_that_is_not_there_is_named_with_the_file(model):
    with (
        closing(GgufCheckpoint([model])) as checkpoint,
        pytest.raises(ModelLoadError, match=r"model\.gguf: there is no tensor blk\.7\.attn_q\.weight"),
    ):
        checkpoint.read("blk.7.attn_q.weight")


def header(num_tensors: int, num_keys: int, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_keys) + rest


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def tensor(name: str, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"GG", "it ends within the magic number"),
        (b"PK\3\4" + bytes(40), "it isn't a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "it is a Git LFS pointer"),
        (header(0, 0, version=1), "version 1 of GGUF isn't supported"),
        (header(0, 0, version=3 << 24), "a big-endian file of GGUF isn't supported"),
        (header(0, 2**60), r"it claims 1152921504606846976 keys, more than its 24 bytes can hold"),
        (header(2**60, 0), r"it claims 1152921504606846976 tensors"),
        (header(0, 1, text("k") + struct.pack("<IQ", 8, 2**63)), "it ends within the value of 'k'"),
        (header(0, 1, text("k") + struct.pack("<IIQ", 9, 4, 2**61)), "it claims 2305843009213693952 elements in 'k'"),
        (header(0, 1, text("k") + struct.pack("<IIQ", 9, 8, 2**61)), "it claims 2305843009213693952 strings in 'k'"),
        (header(0, 1, text("k") + struct.pack("<IIQQ", 9, 8, 1, 2**40)), "it ends within the strings of 'k'"),
        (header(0, 1, text("k") + struct.pack("<IIQ", 9, 9, 1) + bytes(16)), "an array of the unsupported type 9"),
        (header(0, 1, text("k") + struct.pack("<I", 77) + bytes(8)), "key 'k' has the unknown type 77"),
        (header(0, 2, (text("k") + struct.pack("<II", 4, 1)) * 2), "key 'k' occurs twice"),
        (header(0, 1, struct.pack("<Q", 2) + b"\xff\xfe" + bytes(12)), "a key isn't UTF-8"),
        (header(1, 0, text("t") + struct.pack("<I", 9) + bytes(96)), "tensor t has 9 dimensions"),
        (header(1, 0, tensor("t", (0,), 0, 0) + bytes(64)), r"tensor t has the shape \[0\]"),
        (header(1, 0, tensor("t", (32,), 10, 0) + bytes(64)), "tensor t is stored as Q2_K, which isn't supported"),
        (header(1, 0, tensor("t", (33,), 8, 0) + bytes(64)), "tensor t has rows of 33, which q8_0 blocks of 32"),
        (header(1, 0, tensor("t", (8,), 0, 7) + bytes(96)), "tensor t begins at 7, which isn't a multiple of 32"),
        (
            header(1, 0, tensor("t", (2**40, 2**40), 0, 0) + bytes(64)),
            "tensor t ends at byte .* past the end of the file",
        ),
        (header(2, 0, tensor("t", (1,), 0, 0) * 2 + bytes(96)), "tensor t occurs twice"),
        (
            header(0, 1, text("general.alignment") + struct.pack("<II", 4, 24)),
            "general.alignment is 24, not a power of two",
        ),
    ],
)
def test_a_file_that_lies_about_itself_is_refused_with_its_name_and_the_reason(tmp_path, content, message):
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=rf"bad\.gguf: .*{message}"):
        read_header(path)


def test_version_2_is_read_as_version_3(tmp_path, original):
    path = tmp_path / "v2.gguf"
    path.write_bytes(original[:4] + struct.pack("<I", 2) + original[8:])
    assert read_header(path).metadata["llama.block_count"] == 2


def test_a_vocabulary_with_a_broken_string_fails_when_it_is_read(tmp_path):
    metadata = llama_metadata() | {"tokenizer.ggml.model": "llama"}
    original = write_gguf(tmp_path / "whole.gguf", llama_arrays(), metadata).read_bytes()
    at = original.index("token 5 é".encode())
    path = tmp_path / "broken.gguf"
    path.write_bytes(original[:at] + b"\xff" + original[at + 1 :])
    tokens = read_header(path).metadata["tokenizer.ggml.tokens"]
    with pytest.raises(InvalidConfigError, match=r"tokenizer\.ggml\.tokens holds a string that isn't UTF-8"):
        tokens.decode()
    files = ModelFiles(folder=tmp_path, config=None, weights=(path,), weights_format="gguf", tokenizer=None)
    with pytest.raises(ModelLoadError, match=r"broken\.gguf: tokenizer\.ggml\.tokens holds a string that isn't UTF-8"):
        load_tokenizer(files)


def read_all(path: Path) -> bool:
    """Read a file as a start does: True where it is taken. Refusals are all else that may come of it."""
    try:
        with closing(GgufCheckpoint([path])) as file:
            for value in file.header.metadata.values():
                if isinstance(value, Strings):
                    with naming(path):
                        value.decode()
            for name, info in file.tensors.items():
                assert len(file.read(name)) == info.nbytes
    except ModelLoadError as error:
        assert str(path) in str(error)  # noqa: PT017
        return False
    return True


@FEW
@given(data=st.data())
def test_a_file_cut_anywhere_is_refused(tmp_path, model, data):
    path, whole = tmp_path / "cut.gguf", model.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(ModelLoadError, match=r"cut\.gguf"):
        GgufCheckpoint([path])


CHANGES = st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 8, bytes(8)])


@accepting(0.03)
@FEW
@given(changes=st.lists(st.tuples(st.integers(0, 1 << 20), CHANGES), min_size=1, max_size=4))
def test_bytes_changed_anywhere_in_the_header_are_refused_or_read(tmp_path, model, changes):
    damaged = bytearray(model.read_bytes())
    header_size = damaged.rindex(b"output_norm.weight") + 48
    for at, new in changes:
        damaged[at % header_size : at % header_size + len(new)] = new
    path = tmp_path / "changed.gguf"
    path.write_bytes(damaged)
    return read_all(path)


def test_reading_a_large_vocabulary_takes_a_fraction_of_a_second(gemma3):
    metadata = read_header(gemma3.gguf).metadata
    tokens = metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, Strings)
    assert tokens.decode()[:4] == ["<pad>", "<eos>", "<bos>", "<unk>"]
    assert len(tokens) == len(metadata["tokenizer.ggml.scores"]) == 262144
    assert set(metadata["tokenizer.ggml.token_type"]) <= set(range(7))


def test_an_array_of_numbers_takes_no_more_memory_than_its_bytes(tmp_path):
    """A stranger's file may bring one of many millions."""
    path = write_gguf(tmp_path / "m.gguf", {}, {"tokenizer.ggml.token_type": list(range(1 << 20))})
    tracemalloc.start()
    try:
        header = read_header(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert list(header.metadata["tokenizer.ggml.token_type"][-2:]) == [(1 << 20) - 2, (1 << 20) - 1]
    assert peak < 5 * 4 * (1 << 20)


def test_the_architecture_is_read_without_what_follows_it(model, original, tmp_path):
    """The vocabulary, which is most of a header, may be megabytes."""
    path = tmp_path / "cut.gguf"
    path.write_bytes(original[:300])
    files = ModelFiles(folder=tmp_path, config=None, weights=(path,), weights_format="gguf", tokenizer=None)
    assert architecture_names(files) == ("llama",)
    with pytest.raises(ModelLoadError, match="cut short"):
        read_header(path)
