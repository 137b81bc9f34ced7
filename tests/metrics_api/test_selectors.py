"""Label selectors mean what they mean to Kubernetes."""

from __future__ import annotations

import pytest

from octavo_operator.metrics_api.selectors import SelectorError, parse

LABELS = {"app": "vllm", "octavo.dev/service": "m", "tier": ""}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("app=vllm", True),
        ("app==vllm", True),
        ("app = vllm , octavo.dev/service=m", True),
        ("app=other", False),
        ("app!=other", True),
        ("missing!=x", True),
        ("missing=x", False),
        ("app in (a, vllm)", True),
        ("app in (a,b)", False),
        ("app notin (a,b)", True),
        ("app notin (vllm)", False),
        ("missing notin (x)", True),
        ("tier", True),
        ("tier=", True),
        ("!missing", True),
        ("!app", False),
        ("in=x", False),
        ("app in (vllm),tier,octavo.dev/service notin (n)", True),
    ],
)
def test_a_selector_matches_as_in_kubernetes(text, matches):
    """Equality, sets, existence, and what a missing key counts as."""
    assert parse(text)(LABELS) is matches


@pytest.mark.parametrize("text", ["=", "app=a b", "app in vllm", "app,,tier", "a>3", "app in (a", "{}"])
def test_one_that_cannot_be_read_is_refused_and_says_where(text):
    """HTTP 400 rather than a guess: a selector that is half read would choose other pods."""
    with pytest.raises(SelectorError, match="can't be read from"):
        parse(text)
