"""The bodies of answers with embeddings and scores, in the shapes of OpenAI, vLLM and Jina."""

from __future__ import annotations

import msgspec

from octavo_engine.server.answer.responses import Usage


class Embedding(msgspec.Struct):
    """One input's; a list of numbers, or base64 of float32, little-endian."""

    index: int
    embedding: list[float] | str
    object: str = "embedding"


class Embeddings(msgspec.Struct):
    """An answer of /v1/embeddings."""

    id: str
    created: int
    model: str
    data: list[Embedding]
    usage: Usage
    object: str = "list"


class Pooled(msgspec.Struct):
    """One input's vector or scores."""

    index: int
    data: list[float] | str
    object: str = "pooling"


class PoolingAnswer(msgspec.Struct):
    """An answer of /pooling."""

    id: str
    created: int
    model: str
    data: list[Pooled]
    usage: Usage
    object: str = "list"


class Classified(msgspec.Struct):
    """One input's most likely label, and the score of each."""

    index: int
    label: str | None
    probs: list[float]
    num_classes: int


class Classification(msgspec.Struct):
    """An answer of /classify."""

    id: str
    created: int
    model: str
    data: list[Classified]
    usage: Usage
    object: str = "list"


class Score(msgspec.Struct):
    """One pair's, or one item's, score."""

    index: int
    score: float
    object: str = "score"


class Scores(msgspec.Struct):
    """An answer of /score or /generative_scoring."""

    id: str
    created: int
    model: str
    data: list[Score]
    usage: Usage
    object: str = "list"


class RankedDocument(msgspec.Struct):
    """A document as it was sent."""

    text: str


class Ranked(msgspec.Struct):
    """One document and its score; `index` is its place in the request."""

    index: int
    document: RankedDocument
    relevance_score: float


class Ranking(msgspec.Struct):
    """An answer of /rerank: the best documents first."""

    id: str
    model: str
    usage: Usage
    results: list[Ranked]
