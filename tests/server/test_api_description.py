"""/openapi.json is valid OpenAPI of all routes there are, and /docs shows it without anything from elsewhere."""

from __future__ import annotations

import re

import jsonschema
import pytest
from least_bodies import BODIES
from octavo_testing.served import Served
from openapi_spec_validator import validate

from octavo_engine.server import app
from octavo_engine.server.api_description.document import describe
from octavo_engine.server.api_description.operations import OPERATIONS
from octavo_engine.server.routes import description
from octavo_engine.server.routes.tokenization import tokenizer_info

ALL = (
    *(*app.ROUTES, *app.ADAPTER_ROUTES, *app.DEVELOPMENT_ROUTES, *description.ROUTES),
    ("GET", "/tokenizer_info", tokenizer_info),
)


@pytest.fixture(scope="module")
def document():
    return describe(ALL, version="1", root_path="/under", needs_key=True)


def test_the_document_is_valid(document):
    """The validator follows every reference."""
    validate(document)
    assert document["servers"] == [{"url": "/under"}]


def test_every_route_of_the_app_is_described_and_no_other(document):
    """Each handler has an entry of its own, and none is left of a handler that is gone."""
    described = {(m.upper(), path) for path, methods in document["paths"].items() for m in methods}
    assert described == {(method, re.sub(r":[^}]*", "", path)) for method, path, _ in ALL}
    assert OPERATIONS.keys() == {handler for _, _, handler in ALL}
    names = [each["operationId"] for methods in document["paths"].values() for each in methods.values()]
    assert len(set(names)) == len(names)
    assert all(each["summary"] for methods in document["paths"].values() for each in methods.values())


def test_bodies_match_their_schemas(document):
    """Bodies that the server takes are valid by the document; one with a wrong type is not."""
    for path, body in BODIES.values():
        content = document["paths"][path]["post"]["requestBody"]["content"]
        schema = content["application/json"]["schema"] | {"components": document["components"]}
        jsonschema.validate(body, schema)
        wrong = next(iter(body))
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(body | {wrong: True}, schema)


def test_answers_match_their_schemas(served):
    """The answers of a running server are valid by its own document."""
    _, document, _ = served.get("/openapi.json")
    validate(document)
    posted = dict(BODIES.values())
    asked = {("get", path): None for path in ("/v1/models", "/health", "/version", "/load")}
    for (method, path), body in (asked | {("post", path): body for path, body in posted.items()}).items():
        status, answer, _ = served.request(method.upper(), path, body)
        assert status == 200
        content = document["paths"][path][method]["responses"]["200"]["content"]
        jsonschema.validate(answer, content["application/json"]["schema"] | {"components": document["components"]})
    assert document["info"]["version"] == served.get("/version")[1]["version"]
    assert "/pause" not in document["paths"]  # it is not served there


def test_the_html_needs_nothing_from_elsewhere(served):
    """Its script and style are its own, and its policy has the browser fetch from this server alone."""
    status, page, headers = served.get("/docs")
    text = page.decode() if isinstance(page, bytes) else page
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "connect-src 'self'" in headers["content-security-policy"]
    assert not re.search(r"https?://|<link|src=", text)
    assert served.get("/redoc")[1] == page


def test_the_description_needs_no_key_and_can_be_left_out(fake_model):
    """With vLLM's flag there is none of it."""
    with Served(fake_model, "--api-key", "secret", "--root-path", "/under") as server:
        assert server.url.endswith("/under")
        assert server.get("/docs")[0] == 200
        assert server.get("/openapi.json")[1]["paths"]["/v1/models"]["get"]["security"] == [{"key": []}]
        assert server.get("/v1/models")[0] == 401
    with Served(fake_model, "--disable-fastapi-docs", "--enable-offline-docs") as server:
        assert {server.get(path)[0] for path in ("/docs", "/redoc", "/openapi.json")} == {404}
