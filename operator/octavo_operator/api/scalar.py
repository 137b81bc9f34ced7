"""Values that a manifest writes as one scalar and that have a type of their own: the hooks by which pydantic reads them."""

from __future__ import annotations

from typing import Any, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema


class Scalar:
    """Parsed by `parse`, written back by `str`, described to the CRD by `json_schema`."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read what YAML may hold. Raises PydanticCustomError."""
        raise NotImplementedError

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The type's schema in the CRD."""
        raise NotImplementedError

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return cls.json_schema()
