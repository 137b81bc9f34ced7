"""No body, whatever it holds, is a bug of the server: it is answered, or refused in the OpenAI shape."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from least_bodies import BODIES
from octavo_testing.properties import accepting, tried

from octavo_engine.server.intake.unserved_fields import UNSERVED_FIELDS

BASES = {
    path: (kind, least | ({"max_tokens": 2} if "max_tokens" in kind.model_fields else {}))
    for kind, (path, least) in BODIES.items()
}
# Numbers from 2 on: a prompt of token 0 or 1 makes the fake engine fail.
NUMBERS = st.integers(2, 300) | st.integers(-(10**30), -1) | st.sampled_from([2**31, 2**63, 2**64, 10**30])
SCALARS = st.none() | st.booleans() | NUMBERS | st.floats(allow_nan=False) | st.text(max_size=8).map("a".__add__)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@st.composite
def bodies(draw):
    path = draw(st.sampled_from(sorted(BASES)))
    kind, base = BASES[path]
    names = st.sampled_from(sorted([*kind.model_fields, *UNSERVED_FIELDS]))
    extra = draw(st.dictionaries(names, VALUES, min_size=1, max_size=3))
    prompt = extra.get("prompt")
    if prompt is True or (isinstance(prompt, list) and str(prompt).lstrip("[").startswith(("True", "False"))):
        del extra["prompt"]  # they are read as 1 and 0
    return path, {**base, **extra}


@pytest.mark.slow
@accepting(0.01)
@tried(150)
@given(bodies())
@example(("/v1/completions", {"prompt": "a", "top_k": 10**30}))
@example(("/v1/completions", {"prompt": "\ud800"}))
@example(("/v1/chat/completions", {"messages": [{"role": "\ud800", "content": "\x00"}], "max_tokens": 1}))
def test_any_field_with_any_value_is_answered_or_refused(served, sent):
    """In half of a millisecond or so; the shape is the one that clients know."""
    path, body = sent
    status, answer, _ = served.post(path, json.dumps(body).encode())
    assert status < 500, (body, answer)
    if status != 200:
        assert set(answer) == {"error"}
        assert set(answer["error"]) == {"message", "type", "param", "code"}
    return status == 200
