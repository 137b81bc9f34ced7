"""The hub is asked for a config.json at most once, with a deadline, and its answer decides what is known."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from planner_cases import SMALL, described

from octavo_operator.api.model import Model
from octavo_operator.description import describe

MODEL = Model.model_validate({"uri": "hf://org/name", "revision": "refs/pr/1"})


class Hub:
    """A hub on the loopback: what it was asked, and what it answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.status, self.body, self.location = 200, json.dumps(SMALL), None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hub.asked.append((self.path, self.headers.get("Authorization")))
                location, hub.location = hub.location, None
                self.send_response(307 if location else hub.status)
                if location:
                    self.send_header("Location", location)
                self.send_header("Content-Length", "0" if location else str(len(hub.body)))
                self.end_headers()
                if not location:
                    self.wfile.write(hub.body.encode())

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    started = Hub()
    monkeypatch.setenv("HF_ENDPOINT", started.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in ("HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    yield started
    started.server.shutdown()
    started.server.server_close()


def test_a_config_that_is_not_at_hand_is_asked_for(hub):
    assert describe(MODEL, offline=False).spec == described(SMALL)
    assert hub.asked == [("/org/name/resolve/refs%2Fpr%2F1/config.json", None)]


def test_the_users_token_goes_to_the_hub_and_no_further(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "mine")
    hub.location = f"{hub.url.replace('127.0.0.1', 'localhost')}/elsewhere"
    assert describe(MODEL, offline=False).spec is not None
    assert [token for _, token in hub.asked] == ["Bearer mine", None]


def test_a_token_that_was_logged_in_with_is_used(hub, tmp_path):
    (tmp_path / "token").write_text("logged-in\n")
    describe(MODEL, offline=False)
    assert hub.asked[0][1] == "Bearer logged-in"


@pytest.mark.parametrize(
    ("status", "told"), [(401, "wants a token"), (403, "wants a token"), (404, "answers 404"), (500, "answers 500")]
)
def test_a_refusal_is_half_a_sentence(hub, status, told):
    hub.status = status
    assert told in describe(MODEL, offline=False).why_unknown


def test_an_answer_that_is_no_config_is_told(hub):
    hub.body = "<html>"
    assert describe(MODEL, offline=False).why_unknown.startswith("the hub's config.json is not JSON")


def test_offline_nothing_is_asked(hub, monkeypatch):
    assert describe(MODEL, offline=True).spec is None
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert describe(MODEL, offline=False).spec is None
    assert hub.asked == []


def test_a_hub_that_is_not_there_costs_no_waiting(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    assert "can't be reached" in describe(MODEL, offline=False).why_unknown
    assert time.monotonic() - started < 5
