"""Layers that read the keys and values of another: no blocks of their own, no weights for them, and one stage for both."""

from __future__ import annotations

from dataclasses import replace

from octavo_models import from_hf_config
from octavo_models.partition import Place, kv_layout, part
from octavo_models.sharding import obstacle
from octavo_models.spec import ModelSpec

CONFIG = {
    "architectures": ["MistralForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def sharing(**sources: int) -> ModelSpec:
    """Four layers; layer 3 of `layer_3=1` reads what layer 1 has written."""
    spec = from_hf_config(CONFIG)
    layers = list(spec.layers)
    for name, source in sources.items():
        i = int(name.removeprefix("layer_"))
        layers[i] = replace(layers[i], attention=replace(layers[i].attention, kv_from_layer=source))
    return replace(spec, layers=tuple(layers))


def test_such_a_layer_has_no_bytes_in_a_block():
    (whole,), (group,) = (sharing(**s).kv_layout(16, "bf16").groups for s in ({}, {"layer_2": 1, "layer_3": 1}))
    assert group.layers == (0, 1)
    assert group.block_bytes * 2 == whole.block_bytes


def test_stages_keep_a_layer_with_the_one_whose_keys_it_reads():
    assert obstacle(sharing(layer_3=2), 1, 2) is None
    assert obstacle(sharing(layer_3=0), 1, 2) == (
        "pipelineParallelSize 2 parts layer 3 from layer 0, whose keys and values it reads"
    )


def test_a_stage_counts_layers_from_its_own_first():
    spec, second = sharing(layer_3=2), Place(stage=1, num_stages=2)
    assert [a.kv_from_layer for a in part(spec, second).attentions] == [None, 0]
    assert [g.layers for g in kv_layout(spec, second, 16, "bf16").groups] == [(0,)]
