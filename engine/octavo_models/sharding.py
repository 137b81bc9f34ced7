"""The division of a decoder among ranks: by heads and widths (tensor parallel), and by layers (pipeline parallel).

One set of rules for the planner, which computes what a GPU holds, and for the engine, which cuts the weights.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from octavo_models.formats import nbytes, packed_nbytes
from octavo_models.layers import Experts
from octavo_models.spec import FORMAT_OF_DTYPE, ModelSpec, Weight

KV_ROWS = {f"{name}{bias}" for name in ("k", "v", "k_norm") for bias in ("", "_bias")}
"""Weights with rows of KV heads: ranks beyond the number of these hold the same."""
OF_EXPERTS = {f"experts_{name}{bias}" for name in ("gate", "up", "down") for bias in ("", "_bias")}
"""Weights with rows of each expert of a mixture."""
BEFORE_THE_LAYERS = ("positions", "token_types", "embedding_norm", "project_in", "per_layer", "stream_in")
"""Names, or their beginnings, of weights that only the first stage has."""


@dataclass(frozen=True, slots=True)
class SizeNames:
    """The caller's names for the two sizes, so that a message names what its reader can change."""

    tensor: str
    pipeline: str


MANIFEST_NAMES = SizeNames("tensorParallelSize", "pipelineParallelSize")
FLAG_NAMES = SizeNames("--tensor-parallel-size", "--pipeline-parallel-size")


def obstacle(
    spec: ModelSpec,
    tensor_parallel: int,
    pipeline_parallel: int,
    names: SizeNames = MANIFEST_NAMES,
    *,
    whole_experts: bool = False,
) -> str | None:
    """The reason why the model can't be divided into these sizes, as a sentence with both numbers; None if it can.

    With `whole_experts` the ranks share a mixture's experts out, in place of cutting each.
    """
    if pipeline_parallel > len(spec.layers):
        return f"{names.pipeline} {pipeline_parallel} is more than the model's {len(spec.layers)} layers"
    if pipeline_parallel > 1 and (spec.per_layer_embedding is not None or spec.layers[0].altup is not None):
        return f"{names.pipeline} {pipeline_parallel}: later stages would need each token's inputs of their layers, and all residual streams"
    for i, layer in enumerate(spec.layers):
        source = layer.attention.kv_from_layer
        stages = {stage_of(j, len(spec.layers), pipeline_parallel) for j in (i, i if source is None else source)}
        if len(stages) > 1:
            return f"{names.pipeline} {pipeline_parallel} parts layer {i} from layer {source}, whose keys and values it reads"
    asked = f"{names.tensor} {tensor_parallel}"
    for layer in spec.layers:
        heads, kv_heads = layer.attention.num_heads, layer.attention.num_kv_heads
        if heads % tensor_parallel:
            return f"{asked} does not divide the model's {heads} attention heads"
        if kv_heads % tensor_parallel and tensor_parallel % kv_heads:
            return f"{asked} and the model's {kv_heads} KV heads do not divide each other"
        widths = layer.mlp.widths
        if whole_experts and isinstance(layer.mlp, Experts):
            if layer.mlp.num_experts < tensor_parallel:
                return f"{asked} is more than the model's {layer.mlp.num_experts} experts, which each rank has some of"
            widths = widths[1:]  # the shared expert's alone
        for width in widths:
            if width % tensor_parallel:
                return f"{asked} does not divide the MLP's width, {width}"
    return None


def stage_of(layer: int, num_layers: int, num_stages: int) -> int:
    """The pipeline stage that runs a layer: stages are contiguous, and no two differ by more than a layer."""
    return layer * num_stages // num_layers


def possible_sizes(spec: ModelSpec, pipeline_parallel: int, most: int, *, whole_experts: bool = False) -> list[int]:
    """Tensor-parallel sizes up to `most` that divide the model, ascending."""
    sizes = range(1, most + 1)
    return [size for size in sizes if obstacle(spec, size, pipeline_parallel, whole_experts=whole_experts) is None]


def weights_on_gpu(
    spec: ModelSpec,
    dtype: str | None,
    tensor_parallel: int,
    pipeline_parallel: int,
    *,
    whole_experts: bool = False,
) -> int:
    """Exact bytes of the weights on the fullest GPU.

    `dtype` None is the model's own, which all its tensors are converted to. Blocks of few bits stay packed then, and what
    can't be packed beside them is bfloat16. `whole_experts` as in `obstacle`.
    """
    by_stage: dict[int, int] = defaultdict(int)
    for weight in spec.weights:
        for stage in _stages(spec, weight, pipeline_parallel):
            by_stage[stage] += _shard(spec, weight, dtype, tensor_parallel, whole_experts=whole_experts)
    return max(by_stage.values())


def _shard(spec: ModelSpec, weight: Weight, dtype: str | None, tensor_parallel: int, *, whole_experts: bool) -> int:
    parts, last = tensor_parallel, weight.name.rpartition(".")[2]
    if weight.layer is not None and last in KV_ROWS:
        parts = min(parts, spec.layers[weight.layer].attention.num_kv_heads)
    shape = weight.divided(parts)
    if whole_experts and last in OF_EXPERTS:
        held = -(-weight.groups // tensor_parallel)  # on the rank with most
        shape = (weight.shape[0] // weight.groups * held, *weight.shape[1:])
    if dtype is not None:
        return nbytes(FORMAT_OF_DTYPE[dtype], shape)
    if weight.stays_packed(shape):
        return packed_nbytes(weight.format, shape)
    return nbytes(FORMAT_OF_DTYPE[spec.dtype] if spec.quantization is None else "bf16", shape)


def _stages(spec: ModelSpec, weight: Weight, pipeline_parallel: int) -> set[int]:
    if weight.layer is not None:
        return {stage_of(weight.layer, len(spec.layers), pipeline_parallel)}
    if weight.name == "embedding":
        return {0, pipeline_parallel - 1} if spec.tied_head else {0}
    if weight.name.startswith(BEFORE_THE_LAYERS):
        return {0}
    return {pipeline_parallel - 1}
