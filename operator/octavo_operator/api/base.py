"""The base of all types of the API: strictness, spelling, and the names that Kubernetes allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel


class Strict(BaseModel):
    """A part of the manifest: unknown fields are refused, and nothing is converted ("4096" is not 4096)."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        """Remove nulls: charts write them for unset values, and a null means the same as a field that is left out."""
        if not isinstance(value, Mapping):
            return value
        return {key: each for key, each in value.items() if each is not None}


LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"  # DNS-1123 label
SERVICE = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"  # DNS-1035: the Service has the LLMService's name
SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"  # DNS-1123
DATA_KEY = r"^[-._a-zA-Z0-9]+$"
ENV_NAME = r"^[-._a-zA-Z][-._a-zA-Z0-9]*$"
RESOURCE = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"

# 53, as Helm's releases: room for the suffixes of the children and of their pods within 63.
ServiceName = Annotated[str, Field(pattern=SERVICE, max_length=53)]
Label = Annotated[str, Field(pattern=LABEL, max_length=63)]
ObjectName = Annotated[str, Field(pattern=SUBDOMAIN, max_length=253)]
DataKey = Annotated[str, Field(pattern=DATA_KEY, max_length=253)]
EnvName = Annotated[str, Field(pattern=ENV_NAME, max_length=253)]
ResourceName = Annotated[str, Field(pattern=RESOURCE, max_length=317)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]  # int32, as Kubernetes counts

# What a message shows in place of the pattern.
SHAPES = {
    SERVICE: "must be lower-case letters, digits and '-', beginning with a letter",
    LABEL: "must be lower-case letters, digits and '-'",
    SUBDOMAIN: "must be lower-case letters, digits, '-' and '.'",
    DATA_KEY: "must be letters, digits, '-', '_' and '.'",
    ENV_NAME: "must be letters, digits, '-', '_' and '.', not beginning with a digit",
    RESOURCE: "must be a resource's name, such as memory or nvidia.com/gpu",
}

MAX_ITEMS = 128  # of a list, so that what a rule over it costs the API server stays bounded

Texts = Annotated[dict[str, str], Field(max_length=MAX_ITEMS)]  # labels, annotations
Verbatim = dict[str, Any]  # another API's schema: kept as it is
