"""One server for all tests of the API, and the openai client to talk to it."""

from __future__ import annotations

import pytest
from octavo_testing.served import Served, write_model
from openai import OpenAI


@pytest.fixture(scope="session")
def fake_model(tmp_path_factory):
    """A folder with a tokenizer and no weights."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def served(fake_model):
    """A server that most tests share."""
    with Served(fake_model, "--served-model-name", "fake", "other/name") as server:
        yield server


@pytest.fixture(scope="session")
def client(served):
    """The openai package, pointed at the server."""
    with OpenAI(base_url=f"{served.url}/v1", api_key="unneeded", max_retries=0) as client:
        yield client
