"""The bodies of requests for embeddings and scores: OpenAI's fields, and vLLM's and Jina's further ones."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AliasChoices, BaseModel, Field

from octavo_engine.server.intake.protocol import (
    MOST,
    NULL_IS_ABSENT,
    Flag,
    Positive,
    RequestBody,
    Texts,
    TokenIds,
)


class PoolingBody(RequestBody):
    """The fields of every request that is pooled."""

    generates: ClassVar[bool] = True  # as its queue is the same

    request_id: Annotated[str, Field(max_length=256)] | None = None
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31), NULL_IS_ABSENT] = 0
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, lt=MOST)] | None = None
    user: str | None = None


class InputBody(PoolingBody):
    """One input or several, each a text or token ids."""

    input: str | TokenIds | Texts | Annotated[list[TokenIds], Field(fail_fast=True)]
    add_special_tokens: Flag = True

    @property
    def inputs(self) -> list[Any]:
        """All texts, or all lists of token ids."""
        given = self.input
        return [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else list(given)


class EmbeddingBody(InputBody):
    """POST /v1/embeddings."""

    encoding_format: Annotated[Literal["float", "base64"], NULL_IS_ABSENT] = "float"
    dimensions: Positive | None = None
    normalize: bool | None = None


class PoolBody(EmbeddingBody):
    """POST /pooling: what the model makes, an embedding or scores."""

    task: Literal["embed", "classify"] | None = None
    use_activation: bool | None = None


class ClassifyBody(InputBody):
    """POST /classify."""

    use_activation: bool | None = None


class ScoreBody(PoolingBody):
    """POST /score: one text against each of others, or pairs of them."""

    text_1: Annotated[str | Texts, Field(validation_alias=AliasChoices("text_1", "data_1", "queries"))]
    text_2: Annotated[str | Texts, Field(validation_alias=AliasChoices("text_2", "data_2", "documents"))]
    use_activation: bool | None = None


class Document(BaseModel):
    """A document as an object."""

    text: str


class RerankBody(PoolingBody):
    """POST /rerank, as Jina and Cohere have it."""

    query: str
    documents: Annotated[list[str | Document], Field(fail_fast=True)]
    top_n: Annotated[int, Field(ge=0, lt=MOST), NULL_IS_ABSENT] = 0
    use_activation: bool | None = None

    @property
    def texts(self) -> list[str]:
        return [each if isinstance(each, str) else each.text for each in self.documents]
