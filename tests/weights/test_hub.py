"""hf://ORG/NAME fetches what serving needs, in parallel and once; what goes wrong is said with its remedy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants
from octavo_testing.gguf_files import llama_arrays, llama_metadata, write_gguf
from octavo_testing.hub_stand_in import HubStandIn
from octavo_testing.loopback import Body

from octavo_engine.config import ModelConfig, ModelFiles
from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.source import resolve

CONFIG = json.dumps({"architectures": ["LlamaForCausalLM"]}).encode()
PLAIN = {
    "config.json": CONFIG,
    "tokenizer.json": b'{"a": 1}',  # files of one content are one blob of the cache, fetched once
    "tokenizer_config.json": b'{"b": 2}',
    "generation_config.json": b"{}",
    "model.safetensors": b"s" * 70_000,
    "pytorch_model.bin": b"pickle",
    "README.md": b"read me",
    "onnx/model.onnx": b"onnx",
    "modeling_custom.py": b"raise SystemExit('remote code was run')",
}
INDEX = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})
SHARDED = {
    "config.json": CONFIG,
    "model.safetensors.index.json": INDEX.encode(),
    "model-00001-of-00002.safetensors": b"1",
    "model-00002-of-00002.safetensors": b"2",
    "consolidated.safetensors": b"the same again in another layout",
}


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1,127.0.0.2,localhost")


@pytest.fixture
def address():
    return "127.0.0.1"


@pytest.fixture
def hub(tmp_path, monkeypatch, address):
    """A hub on loopback and an empty cache, as HF_ENDPOINT and HF_HOME set before the import would have them."""
    with HubStandIn(address=address).running() as stand_in:
        monkeypatch.setattr(constants, "ENDPOINT", stand_in.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", stand_in.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield stand_in


def fetch(name: str, **fields) -> ModelFiles:
    return resolve(ModelConfig(model=name, served_model_names=("m",), **fields), lambda *_: None)


def test_config_tokenizer_and_safetensors_are_fetched_and_nothing_else(hub):
    repository = hub.add("org/plain", PLAIN)
    files = fetch("hf://org/plain")
    assert sorted(hub.downloads()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert files.commit == repository.commit
    assert files.weights_format == "safetensors"
    assert files.weights[0].read_bytes() == PLAIN["model.safetensors"]
    assert files.tokenizer is not None
    assert files.generation_config is not None
    assert files.tokenizer.parent == files.folder


def test_a_name_without_a_scheme_is_one_of_the_hub(hub):
    hub.add("org/plain", PLAIN)
    assert fetch("org/plain") == fetch("hf://org/plain")


def test_a_second_fetch_downloads_nothing(hub):
    hub.add("org/plain", PLAIN)
    first = fetch("hf://org/plain")
    hub.asked.clear()
    assert fetch("hf://org/plain") == first
    assert hub.downloads() == []


def test_progress_counts_the_bytes_of_all_files_together(hub):
    hub.add("org/plain", PLAIN)
    seen: list[tuple[str, int, int | None]] = []
    resolve(ModelConfig(model="hf://org/plain", served_model_names=("m",)), lambda *progress: seen.append(progress))
    assert {what for what, _, _ in seen} == {"hf://org/plain"}
    assert max(done for _, done, _ in seen) == sum(len(PLAIN[name]) for name in hub.downloads())


def test_shards_are_those_of_the_index(hub):
    hub.add("org/sharded", SHARDED)
    files = fetch("hf://org/sharded")
    assert [path.name for path in files.weights] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    assert "consolidated.safetensors" not in hub.downloads()


def test_one_gguf_of_several_is_named_by_file(hub):
    hub.add("org/ggufs", {"a-Q4_0.gguf": b"a", "b-Q8_0.gguf": b"b", "config.json": CONFIG, "README.md": b""})
    files = fetch("hf://org/ggufs", file="b-Q8_0.gguf")
    assert (files.weights_format, files.weights[0].read_bytes(), files.config) == ("gguf", b"b", None)
    assert hub.downloads() == ["b-Q8_0.gguf"]
    with pytest.raises(ModelLoadError, match=r"name one of its files with --file: a-Q4_0\.gguf, b-Q8_0\.gguf"):
        fetch("hf://org/ggufs")
    with pytest.raises(ModelLoadError, match=r"there is no GGUF file c\.gguf; there are a-Q4_0\.gguf"):
        fetch("hf://org/ggufs", file="c.gguf")


def test_all_pieces_of_a_split_gguf_are_fetched(hub):
    pieces = {f"q8/m-{i:05}-of-00003.gguf": str(i).encode() for i in (1, 2, 3)}
    hub.add("org/split", pieces)
    files = fetch("hf://org/split")
    assert [path.read_bytes() for path in files.weights] == [b"1", b"2", b"3"]


def test_a_revision_is_a_branch_a_tag_or_a_commit_and_is_named_once(hub):
    repository = hub.add("org/plain", PLAIN, branches={"main", "v1"})
    for files in (
        fetch("hf://org/plain@v1"),
        fetch("org/plain", revision="v1"),
        fetch(f"org/plain@{repository.commit}"),
    ):
        assert files.commit == repository.commit
    with pytest.raises(
        ModelLoadError, match=r"hf://org/plain: there is no revision v2; see http://.*/org/plain/tree/main"
    ):
        fetch("hf://org/plain@v2")
    with pytest.raises(ModelLoadError, match="is no revision"):
        fetch("hf://org/plain@../../v1")
    with pytest.raises(ModelLoadError, match="--revision says main; name one revision"):
        fetch("hf://org/plain@v1", revision="main")


def test_dummy_weights_need_no_weights_of_the_hub(hub):
    hub.add("org/plain", PLAIN)
    files = fetch("hf://org/plain", load_format="dummy")
    assert (files.weights_format, files.weights) == ("dummy", ())
    assert "model.safetensors" not in hub.downloads()


def test_a_gated_model_says_where_access_is_asked_for(hub, monkeypatch):
    hub.add("org/gated", PLAIN, token="good", gated=True)
    with pytest.raises(
        ModelLoadError, match=r"this model is gated; ask for access at http://.*/org/gated; .*none is set"
    ):
        fetch("hf://org/gated")
    monkeypatch.setenv("HF_TOKEN", "bad")
    with pytest.raises(ModelLoadError, match="the token in HF_TOKEN has no access"):
        fetch("hf://org/gated")
    monkeypatch.setenv("HF_TOKEN", "good")
    assert fetch("hf://org/gated").weights


def test_a_model_that_is_not_there_or_private_is_said_to_be_either(hub, monkeypatch):
    with pytest.raises(
        ModelLoadError, match="has no such model for us: check the name, or set HF_TOKEN if it is private"
    ):
        fetch("hf://org/nothing")
    hub.add("org/private", PLAIN, token="good")
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "good")
    assert fetch("hf://org/private").weights


def test_without_the_hub_its_cache_serves_and_what_it_lacks_is_said(hub, monkeypatch):
    hub.add("org/plain", PLAIN)
    first = fetch("hf://org/plain")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert fetch("hf://org/plain") == first
    with pytest.raises(
        ModelLoadError, match=r"hf://org/other: it is not in the cache at .*, and http://127\.0\.0\.1:9 can't be"
    ):
        fetch("hf://org/other")


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "has no such model for us"),
        (403, "answers 403 .*HF_TOKEN may not read it"),
        (404, "has no such model for us|answers 404"),
        (429, "answers 429 .*wait, or set HF_TOKEN"),
    ],
)
def test_a_hub_that_refuses_is_not_hidden_by_its_cache(hub, monkeypatch, status, message):
    hub.add("org/plain", PLAIN)
    first = fetch("hf://org/plain")
    headers = {"X-Error-Code": "RepoNotFound"} if status == 401 else {"Retry-After": "0"}
    monkeypatch.setattr(hub, "answer", lambda _asked: (status, Body(b"", headers)))
    with pytest.raises(ModelLoadError, match=rf"hf://org/plain: .*({message}).*; HF_HUB_OFFLINE=1 serves the copy"):
        fetch("hf://org/plain")
    with pytest.raises(ModelLoadError, match=r"hf://org/other: ") as refused:
        fetch("hf://org/other")
    assert "HF_HUB_OFFLINE" not in str(refused.value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch("hf://org/plain") == first


def test_a_hub_that_fails_is_said_when_its_cache_serves(hub, caplog):
    hub.add("org/plain", PLAIN)
    first = fetch("hf://org/plain")
    assert not caplog.text
    hub.down = True
    assert fetch("hf://org/plain") == first
    assert f"the copy in its cache is served, commit {first.commit}" in caplog.text
    with pytest.raises(ModelLoadError, match=r"hf://org/other: .*answers 503"):
        fetch("hf://org/other")


def test_offline_by_request_uses_the_cache_and_no_server(hub, monkeypatch):
    hub.add("org/plain", PLAIN)
    first = fetch("hf://org/plain")
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch("hf://org/plain") == first
    assert hub.asked == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": CONFIG, "pytorch_model.bin": b"p"}, r"neither safetensors nor GGUF weights; pickled ones"),
        ({"config.json": CONFIG, "model.safetensors.index.json": INDEX.encode()}, "which the repository lacks"),
        ({"config.json": CONFIG, "model.safetensors.index.json": b"[]", "a.safetensors": b""}, "it isn't an index"),
        ({"model.safetensors": b"s"}, r"config\.json is missing"),
    ],
)
def test_a_repository_that_holds_no_usable_model_is_refused(hub, files, message):
    hub.add("org/odd", files)
    with pytest.raises(ModelLoadError, match=message):
        fetch("hf://org/odd")


@pytest.mark.parametrize("name", ["hf://", "hf://only-a-name", "hf://a/b/c", "hf://../etc/passwd"])
def test_what_is_no_name_of_a_model_is_refused(name):
    with pytest.raises(ModelLoadError, match="write hf://ORG/NAME"):
        fetch(name)


def test_the_environment_names_endpoint_cache_and_token(tmp_path):
    """In a process of its own: huggingface_hub reads them when it is imported."""
    gguf = write_gguf(tmp_path / "m.gguf", llama_arrays(), llama_metadata())
    code = (
        "from octavo_engine.config import ModelConfig\n"
        "from octavo_engine.weights.source import resolve\n"
        "from octavo_engine.weights.model_spec import read_spec\n"
        "config = ModelConfig(model='org/private', served_model_names=('m',))\n"
        "print(read_spec(config, resolve(config, lambda *_: None)).num_parameters)\n"
    )
    with HubStandIn().running() as hub:
        hub.add("org/private", {"m.gguf": gguf.read_bytes()}, token="good")
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": "good",
        }
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
    assert list(Path(tmp_path / "home").rglob("m.gguf"))


@pytest.fixture
def volume(hub, tmp_path, monkeypatch):
    """A volume at OCTAVO_CACHE that another program has filled as the hub's library does, and an empty cache."""
    hub.add("org/name", PLAIN)
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "volume"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "filled"))
    files = fetched("org/name")
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "volume" / "elsewhere" / "hub"))
    return files


def fetched(name: str) -> ModelFiles:
    return resolve(ModelConfig(model=name, served_model_names=()), lambda *_: None)


@pytest.mark.parametrize("place", ["hub", "huggingface/hub"])
def test_a_volume_that_another_program_has_filled_is_used_as_it_is(hub, volume, tmp_path, place):
    """hub/ at the root of a claim, as one is filled that was mounted at ~/.cache/huggingface; or our own layout."""
    (tmp_path / "volume" / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "filled").rename(tmp_path / "volume" / place)
    files = fetched("org/name")
    assert hub.downloads() == []
    assert files.folder.is_relative_to(tmp_path / "volume" / place)
    # Who looks in the usual place alone finds it too.
    linked = tmp_path / "volume" / "elsewhere" / "hub" / "models--org--name"
    assert (linked / "snapshots" / files.commit / "model.safetensors").read_bytes() == PLAIN["model.safetensors"]


def test_the_cache_of_roots_home_is_read_and_never_written(hub, volume, tmp_path, monkeypatch):
    """A Deployment written for another image mounts its claim there, and we are not root."""
    from octavo_engine.weights import hub as module

    monkeypatch.setattr(module, "HOME_OF_ROOT", tmp_path / "filled")
    before = sorted((tmp_path / "filled").rglob("*"))
    assert fetched("org/name").folder.is_relative_to(tmp_path / "filled")
    assert hub.downloads() == []
    assert sorted((tmp_path / "filled").rglob("*")) == before
    hub.down = True
    assert fetched("org/name").folder.is_relative_to(tmp_path / "filled")


def test_a_volume_that_lacks_a_shard_is_not_taken_for_whole(hub, volume, tmp_path):
    (tmp_path / "volume").mkdir()
    (tmp_path / "filled").rename(tmp_path / "volume" / "hub")
    for shard in (tmp_path / "volume" / "hub").rglob("model.safetensors"):
        shard.unlink()
    files = fetched("org/name")
    assert "model.safetensors" in hub.downloads()
    assert files.folder.is_relative_to(tmp_path / "volume" / "elsewhere")


def test_a_token_is_for_the_hub_and_not_for_the_store_that_it_redirects_to(hub, monkeypatch):
    hub.add("org/private", PLAIN, token="secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert fetched("org/private").weights[0].read_bytes() == PLAIN["model.safetensors"]
    with_token = {asked.headers["Host"].partition(":")[0]: "Authorization" in asked.headers for asked in hub.asked}
    assert with_token == {"127.0.0.1": True, "localhost": False}


@pytest.mark.parametrize("address", ["127.0.0.2"])
def test_a_mirror_may_store_large_files_itself(hub, caplog):
    """Its redirects stay on its own host. No request is logged, for the address may be signed."""
    caplog.set_level("INFO")
    hub.add("org/plain", PLAIN)
    assert fetched("org/plain").weights[0].read_bytes() == PLAIN["model.safetensors"]
    assert any(path.startswith("/lfs/") for path in hub.paths())
    assert "Signature" not in caplog.text


def test_a_hub_that_limits_its_requests_is_waited_for(hub, monkeypatch):
    """The pause is that of Retry-After; every second request is refused."""
    hub.add("org/plain", PLAIN)
    answer, refused = hub.answer, []

    def limited(asked):
        if "/resolve/" in asked.path and asked.path not in refused:
            refused.append(asked.path)
            return 429, Body(b"", {"Retry-After": "0"})
        return answer(asked)

    monkeypatch.setattr(hub, "answer", limited)
    assert fetched("org/plain").weights
    assert refused


def test_the_tutorials_name_of_the_token_serves(hub, monkeypatch):
    hub.add("org/private", PLAIN, token="secret")
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "secret")
    assert fetched("org/private").commit
