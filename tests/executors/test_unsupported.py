"""Features that an executor does not run are refused at the start, by name and with the remedy."""

from __future__ import annotations

import dataclasses

import pytest

from octavo_engine.errors import ExecutorError
from octavo_engine.executors.unsupported import refuse_unsupported
from octavo_models import features, from_hf_config
from octavo_models.layers import AltUp, Experts, Laurel, Mlp, Norm, PerLayerInput, QueryScaling, Router
from octavo_models.pooling import Pooling

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}


def spec_with(attention=None, **layer):
    """Llama with changed fields in its second layer."""
    spec = from_hf_config(CONFIG)
    first, second = spec.layers
    changed = dataclasses.replace(second, attention=dataclasses.replace(second.attention, **(attention or {})), **layer)
    return dataclasses.replace(spec, layers=(first, changed))


@pytest.fixture
def nothing(monkeypatch):
    monkeypatch.setattr(features, "SUPPORTED", {"native": frozenset(), "torch": frozenset()})


@pytest.mark.parametrize(
    ("attention", "layer", "named"),
    [
        ({}, {"mlp": Experts(8, 2, Mlp(16))}, "a mixture of 8 experts"),
        ({}, {"mlp": Mlp(16, "xielu")}, "the activation xielu"),
        ({}, {"post_norms_sum": True}, "norms of the residual stream"),
        ({}, {"post_mlp_norm": Norm(weight=False)}, "a norm without weights"),
        ({"alibi_slopes": (0.5, 0.25, 0.1, 0.05)}, {}, "ALiBi"),
        ({"sinks": True}, {}, "attention sinks"),
        ({"chunk": 16}, {}, "attention in chunks of 16"),
        ({"output_gate": True}, {}, "a gate of attention's output"),
        ({"query_scaling": QueryScaling(0.1, 64)}, {}, "query scaling by position"),
        ({"qkv_clip": 8.0}, {}, "clipped queries, keys and values"),
        ({"qk_norm": Norm(), "qk_norm_span": "width"}, {}, "norms of queries and keys over all heads"),
        ({"qk_norm": Norm(), "qk_norm_span": "each_head"}, {}, "norms of queries and keys with weights of each head"),
        ({"qk_norm": Norm(), "qk_norm_after_rotary": True}, {}, "norms of queries and keys after rotary"),
        ({"causal": False}, {}, "attention in both directions"),
        ({"kv_from_layer": 0}, {}, "keys and values of layer 0"),
        ({"v_norm": Norm(weight=False)}, {}, "norms of values"),
        ({}, {"mlp": Mlp(16, cutoff=1.6)}, "a sparse activation"),
        ({}, {"mlp": Experts(8, 2, Mlp(16), Router(expert_scales=True))}, "a mixture of 8 experts"),
        ({}, {"per_layer": PerLayerInput(8, "gelu", Norm())}, "an embedding for each layer"),
        ({}, {"altup": AltUp(4, Norm())}, "alternating updates of 4 residual streams"),
        ({}, {"laurel": Laurel(8, Norm())}, "a learned augmented residual"),
        ({}, {"scaled": True}, "a learned factor on the residual stream"),
    ],
)
def test_a_feature_that_an_executor_lacks_is_refused_by_name(nothing, attention, layer, named):
    with pytest.raises(
        ExecutorError,
        match=rf"can't run LlamaForCausalLM: it does not support {named} \(layer 1\); choose another model",
    ):
        refuse_unsupported(spec_with(attention, **layer), "torch")


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("pooling", Pooling("mean"), r"pooling \(mean\)"),
        ("token_types", 2, "token types"),
        ("head_bias", True, "a bias of the head"),
        ("embedding_norm", Norm(), "a norm of the embedding"),
        ("projected_embedding", 32, "an embedding of another width, 32"),
    ],
)
def test_so_is_one_of_the_whole_model(nothing, field, value, named):
    with pytest.raises(ExecutorError, match=named):
        refuse_unsupported(dataclasses.replace(spec_with(), **{field: value}), "native")


def test_where_the_other_executor_has_it_the_refusal_says_so(monkeypatch):
    monkeypatch.setattr(features, "SUPPORTED", {"native": frozenset(), "torch": frozenset({"sinks"})})
    spec = spec_with({"sinks": True})
    with pytest.raises(ExecutorError, match=r"attention sinks \(layer 1\); --executor torch runs it"):
        refuse_unsupported(spec, "native")
    refuse_unsupported(spec, "torch")
