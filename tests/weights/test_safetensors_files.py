"""Safetensors files are read as the safetensors package writes them, and a damaged one is refused in one sentence."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from octavo_testing.properties import accepting, tried
from safetensors.numpy import save, save_file

from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.safetensors import SafetensorsCheckpoint

TENSORS = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b.weight": np.arange(5, dtype=np.float16),
    "ids": np.arange(3, dtype=np.int64),
    "empty": np.zeros((0, 4), np.float32),
}
ORIGINAL = save(TENSORS, {"format": "pt"})
FEW = tried(150)


def file_of(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_tensors_come_back_as_they_were_written(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors", {"format": "pt"})
    checkpoint = SafetensorsCheckpoint([tmp_path / "model.safetensors"])
    assert {name: (info.format, info.shape) for name, info in checkpoint.tensors.items()} == {
        "a.weight": ("f32", (3, 4)),
        "b.weight": ("f16", (5,)),
        "ids": ("i64", (3,)),
        "empty": ("f32", (0, 4)),
    }
    for name, array in TENSORS.items():
        assert bytes(checkpoint.read(name)) == array.tobytes()
    assert checkpoint.read("a.weight").readonly
    checkpoint.close()


def test_shards_are_one_checkpoint_in_which_a_tensor_lies_once(tmp_path):
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    save_file({"a": TENSORS["a.weight"]}, first)
    save_file({"b": TENSORS["b.weight"]}, second)
    checkpoint = SafetensorsCheckpoint([first, second])
    assert checkpoint.tensors["b"].path == second
    assert bytes(checkpoint.read("b")) == TENSORS["b.weight"].tobytes()
    checkpoint.close()
    save_file({"a": TENSORS["a.weight"]}, second)
    with pytest.raises(ModelLoadError, match=r"2\.safetensors: tensor a also lies in .*1\.safetensors"):
        SafetensorsCheckpoint([first, second])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"abc", "3 bytes are too few for a header"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "it is a Git LFS pointer"),
        (struct.pack("<Q", 2**60) + b"{}", "its header would be 1152921504606846976 bytes long"),
        (struct.pack("<Q", 500) + b"{}", "it is cut short: the header ends at byte 508, the file at 10"),
        (file_of(b"{not json"), "its header isn't valid"),
        (file_of(b"\xff\xfe\xfd"), "its header isn't valid"),
        (file_of(b"[" * 100_000), "its header isn't valid"),
        (file_of([1]), "its header is no JSON object"),
        (file_of({"t": 1}), "tensor t has no description"),
        (file_of({"t": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}), r"tensor t has the shape \[-1\]"),
        (file_of({"t": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}), r"tensor t has the offsets \[4, 0\]"),
        (file_of({"t": {"dtype": "F32", "shape": [1]}}), "tensor t has the offsets None"),
        (
            file_of({"t": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, bytes(8)),
            "tensor t ends at byte .*cut",
        ),
        (file_of({"t": {"dtype": "F4", "shape": [1], "data_offsets": [0, 1]}}, bytes(8)), "tensor t is of dtype 'F4'"),
        (
            file_of({"t": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, bytes(8)),
            "t has 8 bytes; F32 .3. takes 12",
        ),
        (file_of(b'{"t":{},"t":{}}'), "'t' occurs twice"),
    ],
)
def test_a_file_that_lies_about_itself_is_refused_with_its_name_and_the_reason(tmp_path, content, message):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=rf"bad\.safetensors: .*{message}"):
        SafetensorsCheckpoint([path])


def read_all(path: Path) -> bool:
    """Read a file as a start does: True where it is taken. Refusals are all else that may come of it."""
    try:
        checkpoint = SafetensorsCheckpoint([path])
        for name, info in checkpoint.tensors.items():
            assert len(checkpoint.read(name)) == info.nbytes
        checkpoint.close()
    except ModelLoadError as error:
        assert str(path) in str(error)  # noqa: PT017
        return False
    return True


@FEW
@given(data=st.data())
def test_a_file_cut_anywhere_is_refused(tmp_path, data):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(ORIGINAL[: data.draw(st.integers(0, len(ORIGINAL) - 1))])
    with pytest.raises(ModelLoadError, match=r"cut\.safetensors"):
        SafetensorsCheckpoint([path])


@accepting(0.01)
@FEW
@given(data=st.data())
def test_bytes_changed_anywhere_are_refused_or_read(tmp_path, data):
    damaged = bytearray(ORIGINAL)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(ORIGINAL) - 1))
        new = data.draw(st.binary(min_size=1, max_size=8) | st.sampled_from([b"999999", b"-1", b"null", b"[[", b'""']))
        damaged[at : at + len(new)] = new
    path = tmp_path / "changed.safetensors"
    path.write_bytes(damaged)
    return read_all(path)
