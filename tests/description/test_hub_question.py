"""The hub is asked for a config.json at most once, with a deadline, and its answer decides what is known."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from octavo_testing.planner_cases import SMALL, described

from octavo_operator.api.model import Model
from octavo_operator.description.sources import annotated, describe

MODEL = Model.model_validate({"uri": "hf://org/name", "revision": "refs/pr/1"})


class Hub:
    """A hub on the loopback: what it was asked, and what it answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.status, self.body, self.location = 200, json.dumps(SMALL), None
        self.files: dict[str, int] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hub.asked.append((self.path, self.headers.get("Authorization")))
                location, hub.location = hub.location, None
                body = hub.body
                if self.path.startswith("/api/"):
                    body = json.dumps({"siblings": [{"rfilename": n, "size": s} for n, s in hub.files.items()]})
                self.send_response(307 if location else hub.status)
                if location:
                    self.send_header("Location", location)
                self.send_header("Content-Length", "0" if location else str(len(body)))
                self.end_headers()
                if not location:
                    self.wfile.write(body.encode())

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
    ("status", "message"),
    [(401, "requires a token"), (403, "requires a token"), (404, "answers 404"), (500, "answers 500")],
)
def test_a_refusal_is_half_a_sentence(hub, status, message):
    hub.status = status
    assert message in describe(MODEL, offline=False).why_unknown


def test_an_answer_that_is_no_config_is_reported(hub):
    hub.body = "<html>"
    assert describe(MODEL, offline=False).why_unknown.startswith("the hub's config.json is not JSON")


def test_an_answer_that_is_too_large_is_not_cut_and_then_read(hub):
    hub.body = json.dumps({**SMALL, "filler": "x" * (4 << 20)})
    assert describe(MODEL, offline=False).why_unknown == "the hub's answer for its config.json is larger than 4 MiB"


@pytest.mark.parametrize(
    ("files", "size"),
    [
        ({"model-00001-of-00002.safetensors": 5, "model-00002-of-00002.safetensors": 7, "README.md": 1}, 12),
        ({"model.safetensors": 5, "consolidated.safetensors": 5}, 5),
        ({"consolidated.safetensors": 6, "onnx/model.safetensors": 9}, 6),
        ({"a-q4.gguf": 3}, 3),
        ({"a-q4.gguf": 3, "a-q8.gguf": 6}, None),
        ({"pytorch_model.bin": 5}, None),
    ],
)
def test_a_model_that_no_page_describes_still_has_a_size(hub, files, size):
    hub.body, hub.files = json.dumps({"architectures": ["MambaForCausalLM"]}), files
    found = describe(MODEL, offline=False)
    assert (found.spec, found.size) == (None, size)
    assert "MambaForCausalLM" in found.why_unknown
    assert [path for path, _ in hub.asked] == [
        "/org/name/resolve/refs%2Fpr%2F1/config.json",
        "/api/models/org/name/revision/refs%2Fpr%2F1?blobs=true",
    ]


def test_files_of_this_machine_have_a_size_too(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["MambaForCausalLM"]}))
    (tmp_path / "model.safetensors").write_bytes(b"x" * 9)
    assert describe(Model.model_validate({"uri": f"file://{tmp_path}"}), offline=True).size == 9
    index = {"metadata": {"total_size": 5_000_000_000}, "weight_map": {}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert describe(Model.model_validate({"uri": f"file://{tmp_path}"}), offline=True).size == 5_000_000_000


def test_an_annotated_size_serves_where_nodes_may_not_be_read():
    found = annotated({"octavo.dev/model-size": "87Gi"})
    assert (found.spec, found.size) == (None, 87 << 30)
    assert "model-size" in annotated({"octavo.dev/model-size": "much"}).why_unknown


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
