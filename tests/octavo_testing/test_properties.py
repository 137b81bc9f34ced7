"""A property whose examples are all refused at the door has tested nothing, and fails."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from octavo_testing.properties import accepting, tried


@accepting(0.2)
@tried(30)
@given(number=st.integers(0, 9))
def small(number: int, least: int) -> bool:
    return number <= least


def test_enough_examples_have_to_be_accepted():
    small(least=9)
    with pytest.raises(AssertionError, match=r"^0 of \d+ examples were accepted"):
        small(least=-1)
