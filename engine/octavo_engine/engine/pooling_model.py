"""The description of a model that pools, as the server reads it when the core is ready."""

from __future__ import annotations

from octavo_engine.messages import PoolingModel
from octavo_models.outline import Model
from octavo_models.spec import ModelSpec


def pooling_of(spec: Model | None) -> PoolingModel | None:
    """The part of a model that pools which the server reads; None of one that generates."""
    pooling = spec.pooling if isinstance(spec, ModelSpec) else None
    if pooling is None:
        return None
    assert isinstance(spec, ModelSpec)
    return PoolingModel(
        task=pooling.task,
        size=pooling.size(spec.hidden_size),
        normalize=pooling.normalize,
        activation=pooling.activation,
        labels=list(pooling.labels),
        dimensions=list(pooling.dimensions),
        any_dimension=pooling.any_dimension,
    )
