"""Divides a model that `transformers` runs among tensor-parallel ranks, by the plan that the model itself brings.

Owns the way from a whole loaded model to a rank's part of it. What a plan says, and the sums between ranks that follow
from it, are transformers' own. Independent of attention and of files.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from octavo_engine.errors import ExecutorError
from octavo_engine.executors.torch.parallel import Parallel, RankedParallel

OF_HEADS = {"q_proj", "q_b_proj", "qkv_proj", "query_key_value", "q_gate_proj"}
"""Products that make queries; a plan that cuts them by rows gives each rank some of the heads."""


def cuts_heads(plan: Mapping[str, str] | None) -> bool | None:
    """True if a plan divides attention by its heads; False if it divides the rest alone; None without a plan of layers."""
    of_layers = {name: style for name, style in (plan or {}).items() if "*" in name}
    if not of_layers:
        return None
    return any(name.rpartition(".")[2] in OF_HEADS and style == "colwise" for name, style in of_layers.items())


def divide(model: PreTrainedModel, parallel: Parallel, device: torch.device) -> None:
    """Leave the rank its part of each weight, on `device`. One rank alone keeps all of it.

    Raises:
        ExecutorError: the model's plan does not suit its sizes.
    """
    if not isinstance(parallel, RankedParallel):
        nn.Module.to(model, device)
        return
    from transformers.distributed.configuration_utils import DistributedConfig  # noqa: PLC0415 — a transformers before 5.2 has none
    from transformers.distributed.tensor_parallel import apply_tensor_parallelism  # noqa: PLC0415

    size = parallel.place.tensor_size
    assert parallel.tensor_group is not None, "a rank of several has a group"
    _untie(model)
    try:
        plan = model._resolve_parallel_plans(DistributedConfig(tp_size=size))[0]  # noqa: SLF001 — no other way
        apply_tensor_parallelism(model, DeviceMesh.from_group(parallel.tensor_group, device.type), plan)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise ExecutorError(
            f"--tensor-parallel-size {size}: transformers can't divide {type(model).__name__} by its own plan: {error}; "
            "leave it out, or choose another size"
        ) from error
    for module in model.modules():
        for name, held in list(module.named_parameters(recurse=False)):
            if isinstance(held, DTensor):
                module.register_parameter(name, _own_copy(held))
    nn.Module.to(model, device)


def local(tensor: Tensor) -> Tensor:
    """The part of it that this rank holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _untie(model: nn.Module) -> None:
    """Give each module parameters of its own: a plan names a head that shares the embedding's weight by itself."""
    seen: set[int] = set()
    for module in model.modules():
        for name, held in list(module.named_parameters(recurse=False)):
            if id(held) in seen:
                module.register_parameter(name, nn.Parameter(held.detach(), requires_grad=False))
            seen.add(id(held))


def _own_copy(held: DTensor) -> nn.Parameter:
    """The same part without the rest of the weight, which a slice of it would keep in memory."""
    part = DTensor.from_local(
        held.to_local().detach().clone(),
        held.device_mesh,
        held.placements,
        run_check=False,
        shape=held.shape,
        stride=held.stride(),
    )
    return nn.Parameter(part, requires_grad=False)
