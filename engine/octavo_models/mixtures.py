"""The common fields of Hugging Face configs of mixtures of experts: counts, layers with experts, tensors' names."""

from __future__ import annotations

from collections.abc import Callable

from octavo_models.fields import Fields
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Experts, Mlp, Router
from octavo_models.tensors import At, LayerWeight, at, at_experts, packed, parameter

MOST_EXPERTS = 4096
# Families differ in these names, and transformers 5 writes others than the published configs have.
COUNT = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
PER_TOKEN = ("num_experts_per_tok", "moe_topk", "moe_k")
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


def experts_from_hf(
    source: HfConfig, expert: Mlp, router: Router, *, shared: Mlp | None = None, shared_gate: bool = False
) -> Experts:
    """A mixture of as many experts as the config says."""
    c = source.fields
    num = num_experts(source)
    per_token = c.integer(_named(c, PER_TOKEN), maximum=num)
    return Experts(num, per_token, expert, router, shared, shared_gate)


def num_experts(source: HfConfig) -> int:
    return source.fields.integer(_named(source.fields, COUNT), maximum=MOST_EXPERTS)


def grouped_router(source: HfConfig) -> Router:
    """DeepSeek V3's router: sigmoid, a correction for the choice alone, groups of experts."""
    c, num = source.fields, num_experts(source)
    groups = c.integer("n_group", 1, maximum=num)
    if num % groups:
        raise c.error("n_group", f"is {groups}, which does not divide {_named(c, COUNT)}, {num}")
    return Router(
        "sigmoid",
        renormalize=c.boolean("norm_topk_prob", True),
        correction=True,
        num_groups=groups,
        top_groups=c.integer("topk_group", 1, maximum=groups),
        scale=c.number("routed_scaling_factor", 1.0),
    )


def first_dense(source: HfConfig, default: int = 0) -> Callable[[int], bool]:
    """True for each layer that has the mixture: those that `mlp_layer_types` names, or all after the first dense ones.

    `default` is the number of these where the config is silent.
    """
    c = source.fields
    types = c.sequence("mlp_layer_types", source.num_layers())
    if types is not None:
        if not set(types) <= {"dense", "sparse"}:
            raise c.error("mlp_layer_types", "must hold dense or sparse for each layer")
        return lambda layer: types[layer] == "sparse"
    first, step = c.integer("first_k_dense_replace", default, minimum=0), c.integer("moe_layer_freq", 1)
    return lambda layer: layer >= first and layer % step == 0


def mlps(source: HfConfig, dense: Mlp, experts: Experts, is_sparse: Callable[[int], bool]) -> list[Mlp | Experts]:
    """Each layer's half after attention: the mixture where `is_sparse` of its number."""
    return [experts if is_sparse(i) else dense for i in range(source.num_layers())]


def modules(
    num: int,
    *,
    block: str = "mlp",
    router: str = "gate",
    names: tuple[str, str, str] = PROJECTIONS,
    shared: str = "shared_experts",
) -> dict[LayerWeight, At]:
    """The entries of a mixture whose experts have modules of their own, numbered in `block`.experts.

    `names` are those of gate, up and down; the shared expert's are the usual ones.
    """
    gate, up, down = names
    return {
        "router": at(f"{block}.{router}"),
        "router_correction": parameter(f"{block}.{router}.e_score_correction_bias"),
        "experts_gate": at_experts(f"{block}.experts.{{}}.{gate}", num),
        "experts_up": at_experts(f"{block}.experts.{{}}.{up}", num),
        "experts_down": at_experts(f"{block}.experts.{{}}.{down}", num),
        **shared_modules(f"{block}.{shared}"),
    }


def shared_modules(module: str) -> dict[LayerWeight, At]:
    """The entries of the expert that every token goes to."""
    gate, up, down = (at(f"{module}.{name}") for name in PROJECTIONS)
    return {"shared_gate": gate, "shared_up": up, "shared_down": down}


def stacked_gate_up(tensor: str, experts: Experts, *, interleaved: bool = False) -> dict[LayerWeight, At]:
    """The entries of all experts' gates and ups that one tensor [num_experts, gate and up, in] holds.

    An expert's gate precedes its up, or rows of both alternate (`interleaved`).
    """
    rows = experts.num_experts * experts.expert.intermediate_size
    groups = rows if interleaved else experts.num_experts
    return packed(tensor, ("experts_gate", rows), ("experts_up", rows), groups=groups)


def stacked_parameters(
    module: str, experts: Experts, *, interleaved: bool = False, transposed: bool = True
) -> dict[LayerWeight, At]:
    """The entries of experts that lie, transposed or not, in two parameters of a module, `gate_up_proj` and `down_proj`."""
    tensor = f"{module}.gate_up_proj"
    gate_up = stacked_gate_up(tensor, experts, interleaved=interleaved)
    return {
        **{name: parameter(tensor, rows=entry.rows, transposed=transposed) for name, entry in gate_up.items()},
        "experts_down": parameter(f"{module}.down_proj", transposed=transposed),
    }


def _named(fields: Fields, names: tuple[str, ...]) -> str:
    """The first of `names` that the config has."""
    return next((name for name in names if fields.has(name)), names[0])
