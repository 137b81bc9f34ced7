"""Bounds of the rows of a file."""

from __future__ import annotations

import json

import pytest

from octavo_engine.server.stored_batches.validation import validate


@pytest.mark.parametrize(
    ("name", "prompt", "code"),
    [("x" * 512, "x", None), ("x" * 513, "x", "invalid_row"), ("x", "x" * 2000, "line_too_long")],
)
def test_a_row_is_bounded_in_its_name_and_in_all(tmp_path, name, prompt, code):
    path = tmp_path / "rows"
    path.write_text(
        json.dumps({"custom_id": name, "method": "POST", "url": "/v1/completions", "body": {"prompt": prompt}})
    )
    _, problems = validate(path, "/v1/completions", 2000)
    assert [problem.code for problem in problems][:1] == ([] if code is None else [code])
