"""Index and hub serve what lies in their folders, from the moment that it does."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from e2e.cluster.host_services import FolderHub, FolderIndex, publish_model, publish_package
from octavo_testing.package_index_stand_in import wheel


def ask(url: str, **headers: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
        return answer.read()


def test_a_wheel_is_served_once_it_is_published(tmp_path):
    with FolderIndex(tmp_path / "packages").running() as index:
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(f"{index.index_url}/a-model/")
        refused.value.close()
        name, content = wheel("a-model", "1.0", {"a_model/x.gguf": b"weights"})
        (tmp_path / name).write_bytes(content)
        publish_package(tmp_path, tmp_path / name)
        (file,) = json.loads(ask(f"{index.index_url}/a-model/"))["files"]
        assert ask(f"{index.url}{file['url']}") == content


def test_a_model_is_served_once_it_is_published_and_again_when_it_changes(tmp_path):
    with FolderHub(tmp_path / "hub").running() as hub:
        commits = set()
        for text in ("one", "two"):
            publish_model(tmp_path, "org/name", model(tmp_path / text, text))
            assert ask(f"{hub.url}/org/name/resolve/main/sub/config.json").decode() == text
            commits.add(json.loads(ask(f"{hub.url}/api/models/org/name"))["sha"])
        assert len(commits) == 2


def test_the_hubs_own_client_takes_a_whole_model(tmp_path):
    """With huggingface_hub, as pods do."""
    from huggingface_hub import snapshot_download

    with FolderHub(tmp_path / "hub").running() as hub:
        publish_model(tmp_path, "org/name", model(tmp_path / "m", "text"))
        folder = snapshot_download("org/name", endpoint=hub.url, cache_dir=tmp_path / "cache")
        assert (Path(folder) / "sub" / "config.json").read_text() == "text"


def test_a_model_with_a_token_is_served_to_its_bearer_alone(tmp_path):
    with FolderHub(tmp_path / "hub").running() as hub:
        publish_model(tmp_path, "org/gated", model(tmp_path / "m", "secret"), token="hf_x")
        address = f"{hub.url}/org/gated/resolve/main/sub/config.json"
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(address)
        assert refused.value.code == 401
        assert refused.value.headers["X-Error-Code"] == "GatedRepo"
        refused.value.close()
        assert ask(address, Authorization="Bearer hf_x") == b"secret"


def model(folder, text):
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "config.json").write_text(text)
    return folder
