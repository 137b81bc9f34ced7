"""A model folder for cores of the fake engine."""

from __future__ import annotations

import pytest
from octavo_testing.served import write_model


@pytest.fixture(scope="session")
def fake_model(tmp_path_factory):
    """A folder with a tokenizer and no weights."""
    return write_model(tmp_path_factory.mktemp("model"))
