"""A model that fills in texts is known by its tokens, and its prompt has the order that it was trained on."""

from __future__ import annotations

import pytest

from octavo_engine.text.fill_in_middle import FORMATS, filled, find_format

BEGIN, PREFIX, SUFFIX = [1], [10, 11], [20, 21]


@pytest.mark.parametrize(
    ("tokens", "name", "expected"),
    [
        (
            ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"],
            "qwen and codegemma",
            [1, 100, 10, 11, 102, 20, 21, 101],
        ),
        (
            ["<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"],
            "starcoder",
            [1, 100, 10, 11, 102, 20, 21, 101],
        ),
        (["<｜fim▁hole｜>", "<｜fim▁begin｜>", "<｜fim▁end｜>"], "deepseek", [1, 101, 10, 11, 100, 20, 21, 102]),
        (["▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>"], "codellama", [1, 100, 10, 11, 102, 20, 21, 101]),
        (["<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>"], "seed-coder", [1, 101, 20, 21, 100, 10, 11, 102]),
        (["[PREFIX]", "[SUFFIX]", "[MIDDLE]"], "codestral", [1, 101, 20, 21, 100, 10, 11]),
    ],
)
def test_a_prompt_in_the_format_of_its_authors(tokens, name, expected):
    """Written by hand from the sources that the table names."""
    ids = {token: 100 + i for i, token in enumerate(tokens)}
    chosen = find_format(ids.get)
    assert chosen is not None
    assert chosen.name == name
    assert filled(chosen, BEGIN, PREFIX, SUFFIX, ids.__getitem__) == expected


def test_a_vocabulary_without_all_markers_has_no_format():
    """Two of three are not enough."""
    assert find_format({"<|fim_prefix|>": 1, "<|fim_suffix|>": 2}.get) is None
    assert len({f.name for f in FORMATS}) == len(FORMATS)
