"""The models that run through transformers are those of the reference, kind by kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from octavo_testing.golden import assert_golden

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "models-through-transformers.md"


@pytest.mark.slow
def test_the_reference_lists_what_runs():
    from octavo_testing.transformers_survey import page  # seconds, which each worker would take

    assert_golden(page(), PAGE)
