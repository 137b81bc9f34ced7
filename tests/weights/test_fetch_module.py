"""`python -m octavo_engine.fetch`, what the Job of a model cache runs: fetches, reports, and says why it can't."""

from __future__ import annotations

import json

import pytest
from gguf_files import llama_arrays, llama_metadata, write_gguf

from octavo_engine.fetch import main


def test_a_model_that_is_there_is_reported_with_its_size(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", llama_arrays(), llama_metadata())
    report = tmp_path / "report"
    assert main(["--model", str(path), "--report", str(report)]) == 0
    assert json.loads(report.read_text()) == {"commit": None, "bytes": path.stat().st_size}


def test_what_can_not_be_had_is_told_in_one_sentence_with_status_one(tmp_path, capsys):
    """The sentence is the container's last message, which the operator shows."""
    report = tmp_path / "report"
    assert main(["--model", str(tmp_path / "absent.gguf"), "--report", str(report)]) == 1
    told = capsys.readouterr().err.strip()
    assert told == f"octavo fetch: {tmp_path}/absent.gguf: there is no such file or folder"
    assert not report.exists()


def test_usage_has_a_status_of_its_own():
    """Trying again does not mend it, so the Job ends at once."""
    with pytest.raises(SystemExit) as ended:
        main(["--revision", "main"])
    assert ended.value.code == 2
