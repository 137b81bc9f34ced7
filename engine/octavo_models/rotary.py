"""Reads a model's rotary embedding out of its config, in each spelling that Hugging Face and GGUF have had.

Hugging Face wrote `rope_theta` beside `rope_scaling` (with `type`, later `rope_type`) up to transformers 4, and
writes `rope_parameters` since 5; there, models with two kinds of layers have one mapping for each kind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from octavo_models.errors import UnsupportedModelError
from octavo_models.fields import LARGEST, Fields
from octavo_models.layers import Rotary, RotaryScaling

ROPE_KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope", "proportional")


def rotary_from_hf(
    config: Fields,
    head_dim: int,
    *,
    layer_type: str | None = None,
    theta: float | None = None,
    scaled: bool = True,
    default_theta: float = 10000.0,
    default_fraction: float = 1.0,
) -> Rotary:
    """The rotary embedding of a layer (of `layer_type`, if the config distinguishes kinds of layers).

    `theta` is the base that the old spelling gives this kind of layer; `scaled` is False for a kind of layer that
    the old spelling's `rope_scaling` does not reach (Gemma 3's local layers). The defaults are what the architecture
    assumes where the config is silent; the fraction is the part of a head that rotates.
    """
    parameters = _parameters(config, layer_type)
    scaling = parameters if parameters is not None else (config.mapping("rope_scaling") if scaled else None)
    fields = Fields(scaling or {})
    if parameters is not None and fields.has("rope_theta"):
        base = fields.number("rope_theta")
    else:
        base = theta if theta is not None else config.number("rope_theta", default_theta)
    fraction = fields if fields.has("partial_rotary_factor") else config
    dim = int(head_dim * fraction.number("partial_rotary_factor", default_fraction))
    if not 0 < dim <= head_dim or dim % 2:
        raise config.error(
            "partial_rotary_factor", f"leaves {dim} of {head_dim} elements to rotate; an even number is needed"
        )
    _check_base(config, base)
    if _kind(fields) == "proportional":
        return _proportional(fields, head_dim, base, dim // 2)
    if _kind(fields) == "dynamic":
        return Rotary(dim, _dynamic_base(base, _alpha(fields), dim))
    return Rotary(dim, base, scaling=_scaling(config, fields, dim))


def _proportional(fields: Fields, head_dim: int, base: float, num_turned: int) -> Rotary:
    """Gemma 4's: frequencies as of the whole head, of which the first `num_turned` turn."""
    factor = fields.number("factor", 1.0)
    scaling = None if factor == 1.0 else RotaryScaling("linear", factor)
    return Rotary(head_dim, base, scaling=scaling, num_turned=num_turned)


def longest_from_hf(config: Fields) -> int:
    """The longest sequence that a model is served with: its own, and what its rotary scaling lengthens it to.

    As vLLM derives it: linear and dynamic scaling multiply `max_position_embeddings`, yarn its original length; the
    lengths of llama3 and longrope are lengthened ones already.
    """
    own = config.integer("max_position_embeddings")
    fields = Fields(rotary_parameters(config) or {})
    match _kind(fields):
        case "linear" | "dynamic":
            longest = own * fields.number("factor", 1.0 if fields.has("alpha") else None)
        case "yarn":
            scaling = _yarn(config, fields)
            longest = scaling.original_max_position * scaling.factor
        case _:
            longest = own
    return _length(fields, longest)


def longest_from_gguf(metadata: Fields) -> int:
    """The same of a GGUF file. Its `context_length` may be a lengthened one: the original length says so."""
    own = metadata.integer("context_length")
    if metadata.text("rope.scaling.type", "none") not in {"linear", "yarn"}:
        return own
    original = metadata.integer("rope.scaling.original_context_length", own, minimum=2)
    return max(own, _length(metadata, original * metadata.number("rope.scaling.factor", 1.0)))


def rotary_from_gguf(
    metadata: Fields,
    head_dim: int,
    *,
    theta: float | None = None,
    factors: Sequence[float] | None = None,
    scaled: bool = True,
) -> Rotary:
    """The rotary embedding of a GGUF file; `factors` are the values of its tensor of rotary factors, if it has one."""
    base = theta if theta is not None else metadata.number("rope.freq_base", 10000.0)
    dim = metadata.integer("rope.dimension_count", head_dim)
    if dim > head_dim or dim % 2:
        raise metadata.error("rope.dimension_count", f"is {dim}; heads of {head_dim} need an even number up to that")
    _check_base(metadata, base)
    if not scaled:
        return Rotary(dim, base)
    if factors is not None:
        checked = Fields({"rope_freqs.weight": list(factors)}).numbers("rope_freqs.weight", dim // 2)
        # Llama 3's stretching is stored as divisors too; it leaves attention's temperature alone.
        attention = metadata.number("rope.scaling.attn_factor", 1.0)
        return Rotary(dim, base, scaling=RotaryScaling("longrope", attention_factor=attention, factors=checked or ()))
    # Files from before rope.scaling.* name one linear factor.
    legacy = "linear" if metadata.has("rope.scale_linear") else "none"
    kind = metadata.text("rope.scaling.type", legacy)
    if kind == "none":
        return Rotary(dim, base)
    if kind == "linear":
        name = "rope.scaling.factor" if metadata.has("rope.scaling.factor") else "rope.scale_linear"
        return Rotary(dim, base, scaling=RotaryScaling("linear", metadata.number(name)))
    if kind != "yarn":
        raise UnsupportedModelError(f"{metadata.prefix}rope.scaling.type is {kind!r}; linear and yarn are supported")
    factor = metadata.number("rope.scaling.factor")
    # llama.cpp multiplies the temperature that yarn computes by the file's own factor.
    attention = metadata.number("rope.scaling.attn_factor", 1.0) * yarn_temperature(factor, 1.0)
    scaling = RotaryScaling(
        "yarn",
        factor,
        metadata.integer("rope.scaling.original_context_length", metadata.integer("context_length"), minimum=2),
        beta_fast=metadata.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=metadata.number("rope.scaling.yarn_beta_slow", 1.0),
        attention_factor=attention,
    )
    return Rotary(dim, base, scaling=scaling)


def rotary_parameters(config: Fields) -> Mapping[str, Any] | None:
    """The mapping that both spellings keep rotary scaling in; None where the config has neither."""
    parameters = _parameters(config, None)
    return parameters if parameters is not None else config.mapping("rope_scaling")


def _parameters(config: Fields, layer_type: str | None) -> Mapping[str, Any] | None:
    parameters = config.mapping("rope_parameters")
    if parameters is None:
        return None
    by_layer = [key for key, value in parameters.items() if isinstance(value, Mapping)]
    if not by_layer:
        return parameters
    name = layer_type or "full_attention"
    fields = parameters.get(name)
    if not isinstance(fields, Mapping):
        raise config.error("rope_parameters", f"has no mapping for {name} (it has {', '.join(map(str, by_layer))})")
    return fields


def _length(fields: Fields, tokens: float) -> int:
    if tokens > LARGEST:
        raise fields.error("factor", f"lengthens the model to {tokens:g} tokens, which is implausible")
    return max(1, int(tokens))


def _alpha(fields: Fields) -> float:
    """The factor by which NTK-aware scaling stretches the wavelengths: the config's `alpha` (Hunyuan), or one computed
    from its factor.

    transformers computes the latter for each length, which can't be done where keys are cached. A model is served at its
    full length, `factor` times its own, as in vLLM; there both are the same.
    """
    if fields.has("alpha"):
        return fields.number("alpha")
    factor = fields.number("factor")
    return factor * factor - factor + 1


def _dynamic_base(base: float, alpha: float, dim: int) -> float:
    return base * alpha ** (dim / (dim - 2)) if dim > 2 else base


def _check_base(source: Fields, base: float) -> None:
    # A base of 1 turns every pair alike and divides by log(1); below it frequencies grow without bound.
    if base <= 1.0:
        raise source.error("rope_theta", f"is {base:g}; a rotary base lies above 1")


def _kind(fields: Fields) -> str:
    return fields.text("rope_type", fields.text("type", "default"))


def _scaling(config: Fields, fields: Fields, dim: int) -> RotaryScaling | None:
    kind = _kind(fields)
    match kind:
        case "default" | "mrope":  # the latter has a position for each of several axes: in text they are equal
            return None
        case "linear":
            return RotaryScaling("linear", fields.number("factor"))
        case "llama3":
            low, high = fields.number("low_freq_factor"), fields.number("high_freq_factor")
            if high < low:
                raise fields.error("high_freq_factor", f"is {high:g}; it must not be below low_freq_factor, {low:g}")
            return RotaryScaling("llama3", fields.number("factor"), _original(config, fields), low, high)
        case "yarn":
            return _yarn(config, fields)
        case "longrope" | "su":
            return _longrope(config, fields, dim)
    raise UnsupportedModelError(f"rope_type is {kind!r}; supported are {', '.join(ROPE_KINDS)}")


def _original(config: Fields, fields: Fields) -> int:
    name = "original_max_position_embeddings"
    # Its logarithm divides, so 1 is no length.
    if fields.has(name):
        return fields.integer(name, minimum=2)
    return config.integer(name, config.integer("max_position_embeddings", minimum=2), minimum=2)


def _yarn(config: Fields, fields: Fields) -> RotaryScaling:
    factor = fields.number("factor", 1.0 if fields.has("original_max_position_embeddings") else None)
    attention = fields.number("attention_factor") if fields.has("attention_factor") else None
    if attention is None and fields.has("mscale") and fields.has("mscale_all_dim"):
        scale, scale_all = (yarn_temperature(factor, fields.number(m)) for m in ("mscale", "mscale_all_dim"))
        attention = scale / scale_all
    return RotaryScaling(
        "yarn",
        factor,
        _original(config, fields),
        beta_fast=fields.number("beta_fast", 32.0),
        beta_slow=fields.number("beta_slow", 1.0),
        attention_factor=attention,
        truncate=fields.boolean("truncate", True),
    )


def yarn_temperature(factor: float, mscale: float) -> float:
    """yarn's factor on queries and on keys for a model that is lengthened by `factor`, as DeepSeek weighs it."""
    return 1.0 if factor <= 1.0 else 0.1 * mscale * math.log(factor) + 1.0


def _longrope(config: Fields, fields: Fields, dim: int) -> RotaryScaling:
    # Which of the two lists holds depends on the length of a sequence; a served model is described at its full length.
    original, longest = _original(config, fields), config.integer("max_position_embeddings")
    length = "long" if longest > original else "short"
    name = f"{length}_factor"
    factors = fields.numbers(name, dim // 2)
    if factors is None:
        raise fields.error(name, "is missing")
    factor = fields.number("factor", longest / original)
    given = f"{length}_mscale" if fields.has(f"{length}_mscale") else "attention_factor"  # the former: Phi-3.5-MoE
    attention = fields.number(given) if fields.has(given) else None
    return RotaryScaling("longrope", factor, original, attention_factor=attention, factors=factors)
