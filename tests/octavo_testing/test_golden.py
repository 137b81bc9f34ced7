"""Golden files: a run that writes one fails, and CI writes none."""

from __future__ import annotations

import pytest
from octavo_testing.golden import assert_golden


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("OCTAVO_UPDATE_GOLDEN", "1")
    path = tmp_path / "golden.txt"
    path.write_text("as it was", encoding="utf-8")
    return path


def test_what_is_written_fails_once(file):
    with pytest.raises(pytest.fail.Exception, match=r"golden\.txt has been written"):
        assert_golden("as it is", file)
    assert_golden("as it is", file)


def test_ci_writes_nothing(file, monkeypatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(AssertionError):
        assert_golden("as it is", file)
    assert file.read_text(encoding="utf-8") == "as it was"


def test_a_text_that_differs_fails_without_the_variable(file, monkeypatch):
    monkeypatch.delenv("OCTAVO_UPDATE_GOLDEN")
    with pytest.raises(AssertionError):
        assert_golden("as it is", file)
