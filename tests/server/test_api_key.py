"""The API key guards everything but a few listed paths, however a path is written."""

from __future__ import annotations

import socket
import time

import pytest
from octavo_testing.served import Served

from octavo_engine.api_keys import PAUSE_S
from octavo_engine.client.openai_client import OpenAIClient

KEY = "sesame"


@pytest.fixture(scope="module")
def guarded(fake_model):
    """A server with two keys."""
    with Served(fake_model, "--api-key", KEY, "second-key", "--served-model-name", "fake") as server:
        yield server


def raw_status(server, target, method="GET", headers=""):
    """The status of a request whose target is sent exactly as written."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n".encode())
        data = b""
        while part := connection.recv(4096):
            data += part
    return int(data.split(b" ")[1])


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/health", "/ping", "/version", "/metrics", "/load", "/health?x=1"])
def test_what_probes_and_scrapers_read_is_open(guarded, path):
    """Probes have no key."""
    assert guarded.get(path)[0] == 200


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/v1/models"),
        ("HEAD", "/v1/models"),
        ("GET", "//v1/models"),
        ("GET", "/V1/models"),
        ("GET", "/v1/models/"),
        ("GET", "/v1/models/fake"),
        ("GET", "/v1%2Fmodels"),
        ("GET", "/%761/models"),
        ("GET", "/health/../v1/models"),
        ("GET", "/health/%2e%2e/v1/models"),
        ("GET", "/health%2f..%2fv1/models"),
        ("GET", "/v1/models;/health"),
        ("GET", "/v1/models#/health"),
        ("GET", "/v1/models?/health"),
        ("GET", "http://x/v1/models"),
        ("GET", "http://x/health/../v1/models"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
        ("OPTIONS", "/v1/models"),
        ("GET", "/nothing/here"),
    ],
)
def test_everything_else_needs_the_key_however_the_path_is_written(guarded, method, target):
    """Denied by default: only what is literally an open path is open; what does not exist reveals nothing."""
    assert raw_status(guarded, target, method) == 401


@pytest.mark.parametrize(
    "value", ["", "sesame", "Bearer", "Bearer ", "Bearer sesam", "Bearer sesamee", "Basic sesame", "Bearer SESAME"]
)
def test_a_wrong_key_is_refused_in_the_openai_shape(guarded, value):
    """Whatever is nearly a key is none."""
    status, answer, headers = guarded.get("/v1/models", headers={"Authorization": value})
    assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
    assert headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("value", [f"Bearer {KEY}", "bearer second-key"])
def test_each_key_opens(guarded, value):
    """Two keys serve a rotation."""
    assert guarded.get("/v1/models", headers={"Authorization": value})[0] == 200


async def test_octavos_own_client_sends_a_key_without_its_newline(guarded):
    """Files and Secrets end in one: `octavo chat` and `octavo bench` read the key from the environment."""
    async with OpenAIClient(guarded.url, f"{KEY}\n") as client:
        assert await client.models() == ["fake"]


@pytest.mark.parametrize("name", ["OCTAVO_API_KEY", pytest.param("VLLM_API_KEY", marks=pytest.mark.slow)])
def test_the_key_comes_from_the_environment_too(fake_model, name):
    """Images are given the key so; it is not on the command line for all to read."""
    with Served(fake_model, env={name: KEY}) as server:
        assert server.get("/v1/models")[0] == 401
        assert server.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"})[0] == 200


def test_a_preflight_is_answered_without_the_key_for_an_allowed_origin(fake_model):
    """A browser asks before it sends the key; other origins learn nothing."""
    with Served(fake_model, "--api-key", KEY, "--allowed-origins", '["https://a.example"]') as server:
        ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        status, _, headers = server.request(
            "OPTIONS", "/v1/completions", headers={"Origin": "https://a.example", **ask}
        )
        assert status == 204
        assert headers["access-control-allow-origin"] == "https://a.example"
        status, _, headers = server.request(
            "OPTIONS", "/v1/completions", headers={"Origin": "https://b.example", **ask}
        )
        assert status == 401
        assert "access-control-allow-origin" not in headers
        _, _, headers = server.get("/v1/models", headers={"Origin": "https://a.example"})
        assert headers["access-control-allow-origin"] == "https://a.example", "errors can be read too"
        assert "X-Request-Id" in headers["access-control-expose-headers"]


@pytest.mark.slow
def test_keys_of_a_file_are_replaced_while_it_is_served_from(fake_model, tmp_path):
    """A kubelet moves a link to another folder. A file that can't be used changes nothing."""

    def put(name, text):
        (tmp_path / name).mkdir()
        (tmp_path / name / "keys").write_text(text)
        (tmp_path / "next").symlink_to(name)
        (tmp_path / "next").rename(tmp_path / "data")

    def status(key):
        return raw_status(server, "/v1/models", headers=f"Authorization: Bearer {key}\r\n")

    put("first", "old\n")
    with Served(fake_model, "--api-key-file", str(tmp_path / "data/keys")) as server:
        assert (status("old"), status("new")) == (200, 401)
        put("both", "old\nnew\n")
        eventually(lambda: (status("old"), status("new")) == (200, 200))
        put("second", "new\n")
        eventually(lambda: (status("old"), status("new")) == (401, 200))
        put("empty", "\n")
        time.sleep(2 * PAUSE_S)
        assert (status("old"), status("new"), status("")) == (401, 200, 401)
        (tmp_path / "data").unlink()
        time.sleep(2 * PAUSE_S)
        assert (status("old"), status("new"), status("")) == (401, 200, 401)


def eventually(holds):
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)
