"""`python -m octavo_engine.fetch`, what the Job of a model cache runs: fetches, reports, and says why it can't."""

from __future__ import annotations

import json

import msgspec
import pytest
from octavo_testing.gguf_files import llama_arrays, llama_metadata, write_gguf

from octavo_engine.config import ModelConfig
from octavo_engine.fetch import main
from octavo_engine.weights.marker import read_marker


@pytest.fixture(autouse=True)
def volume(tmp_path, monkeypatch):
    """The folder where models are kept."""
    folder = tmp_path / "volume"
    monkeypatch.setenv("OCTAVO_CACHE", str(folder))
    return folder


def test_a_model_that_is_there_is_reported_with_its_size(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", llama_arrays(), llama_metadata())
    report = tmp_path / "report"
    assert main(["--model", str(path), "--report", str(report)]) == 0
    assert json.loads(report.read_text()) == {"commit": None, "bytes": path.stat().st_size}


def test_what_can_not_be_fetched_is_reported_in_one_sentence_with_status_one(tmp_path, capsys):
    """The sentence is the container's last message, which the operator shows."""
    report = tmp_path / "report"
    assert main(["--model", str(tmp_path / "absent.gguf"), "--report", str(report)]) == 1
    printed = capsys.readouterr().err.strip()
    assert printed == f"octavo fetch: {tmp_path}/absent.gguf: there is no such file or folder"
    assert not report.exists()


def test_usage_has_a_status_of_its_own():
    """Trying again does not help, so the Job ends at once."""
    with pytest.raises(SystemExit) as ended:
        main(["--revision", "main"])
    assert ended.value.code == 2


def model_on(volume):
    volume.mkdir(exist_ok=True)
    return write_gguf(volume / "m.gguf", llama_arrays(), llama_metadata())


def test_what_was_whole_once_is_not_asked_for_again(tmp_path, volume, monkeypatch):
    """Neither a hub nor a network is needed: a Job that was removed, or a cluster without a way out, lose nothing."""
    path, report = model_on(volume), tmp_path / "report"
    assert main(["--model", str(path)]) == 0
    monkeypatch.setattr("octavo_engine.fetch.resolve", lambda *_: pytest.fail("it was asked for again"))
    assert main(["--model", str(path), "--report", str(report)]) == 0
    assert json.loads(report.read_text())["bytes"] == path.stat().st_size


@pytest.mark.parametrize("damage", ["gone", "cut", "marker"])
def test_a_marker_counts_only_for_files_that_are_whole(volume, damage):
    """The marker must be for what was asked for: another revision is another download."""
    path = model_on(volume)
    assert main(["--model", str(path)]) == 0
    model = ModelConfig(model=str(path), served_model_names=())
    assert read_marker(model) is not None
    assert read_marker(msgspec.structs.replace(model, revision="v2")) is None
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        (marker,) = (volume / ".downloads").iterdir()
        marker.write_text(marker.read_text()[:-9])
    assert read_marker(model) is None


def test_a_volume_that_moves_keeps_its_markers(tmp_path, volume, monkeypatch):
    """Names are relative to the folder of models."""
    path = model_on(volume)
    assert main(["--model", str(path)]) == 0
    volume.rename(tmp_path / "elsewhere")
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "elsewhere"))
    assert read_marker(ModelConfig(model=str(path), served_model_names=())) is not None
