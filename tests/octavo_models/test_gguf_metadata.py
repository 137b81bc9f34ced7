"""Any GGUF metadata becomes a spec or one sentence that names the key or tensor."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from octavo_testing.properties import accepting, tried
from published_configs import LLAMA_3_2_1B
from untrusted_values import JUNK, NUMBERS, exercise

from octavo_models import InvalidConfigError, ModelError, UnsupportedModelError, from_gguf, from_hf_config
from octavo_models.tensors import Unpermute


def gguf_model(architecture: str = "llama", **changes: object) -> tuple[dict, dict]:
    """(metadata, tensors) of a small model of two layers."""
    hidden, inner, heads, kv_heads, vocab = 64, 96, 4, 2, 100
    metadata: dict[str, object] = {
        "general.architecture": architecture,
        f"{architecture}.block_count": 2,
        f"{architecture}.context_length": 2048,
        f"{architecture}.embedding_length": hidden,
        f"{architecture}.feed_forward_length": inner,
        f"{architecture}.attention.head_count": heads,
        f"{architecture}.attention.head_count_kv": kv_heads,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{architecture}.attention.sliding_window": 512,
    }
    metadata.update({f"{architecture}.{key.replace('__', '.')}": value for key, value in changes.items()})
    head = hidden // heads
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {
        "token_embd.weight": ("q8_0", (vocab, hidden)),
        "output_norm.weight": ("f32", (hidden,)),
    }
    for i in range(2):
        layer = {
            "attn_norm": ("f32", (hidden,)),
            "attn_q": ("q4_0", (hidden, hidden)),
            "attn_k": ("q4_0", (kv_heads * head, hidden)),
            "attn_v": ("q8_0", (kv_heads * head, hidden)),
            "attn_output": ("q4_0", (hidden, hidden)),
            "ffn_norm": ("f32", (hidden,)),
            "ffn_gate": ("q4_0", (inner, hidden)),
            "ffn_up": ("q4_0", (inner, hidden)),
            "ffn_down": ("q4_1", (hidden, inner)),
        }
        if architecture in {"qwen3", "gemma3"}:
            layer |= {"attn_q_norm": ("f32", (head,)), "attn_k_norm": ("f32", (head,))}
        if architecture == "gemma3":
            layer |= {"post_attention_norm": ("f32", (hidden,)), "post_ffw_norm": ("f32", (hidden,))}
        tensors |= {f"blk.{i}.{name}.weight": tensor for name, tensor in layer.items()}
    return metadata, tensors


@pytest.mark.parametrize("architecture", ["llama", "smollm3", "qwen2", "qwen3", "gemma3"])
def test_each_architecture_is_read_from_gguf_metadata(architecture):
    spec = from_gguf(*gguf_model(architecture))
    assert (spec.architecture, spec.quantization, spec.tied_head, spec.vocab_size) == (architecture, "gguf", True, 100)
    weights = {weight.name: weight for weight in spec.weights}
    permuted = architecture in {"llama", "smollm3"}
    assert weights["layers.1.k"].transform == (Unpermute(2) if permuted else None)
    assert weights["layers.0.v"].transform is None
    assert weights["layers.0.down"].format == "q4_1"
    assert spec.final_norm.offset == 0.0
    exercise(spec)


def test_an_unquantized_gguf_has_the_dtype_that_its_matrices_have():
    metadata, tensors = gguf_model()
    halves = {name: ("f16" if len(shape) > 1 else "f32", shape) for name, (_, shape) in tensors.items()}
    spec = from_gguf(metadata, halves)
    assert (spec.dtype, spec.quantization) == ("float16", None)


def test_rotary_factors_of_a_gguf_divide_the_frequencies():
    metadata, tensors = gguf_model()
    tensors["rope_freqs.weight"] = ("f32", (8,))
    factors = [1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 8.0, 8.0]
    rotary = from_gguf(metadata, tensors, rope_factors=factors).layers[0].attention.rotary
    assert rotary is not None
    plain = from_gguf(*gguf_model()).layers[0].attention.rotary
    assert plain is not None
    expected = [f / d for f, d in zip(plain.inverse_frequencies(), factors, strict=True)]
    assert rotary.inverse_frequencies() == pytest.approx(expected)
    assert rotary.attention_factor() == 1.0
    with pytest.raises(InvalidConfigError, match=r"rope_freqs\.weight"):
        from_gguf(metadata, tensors)


def test_scalings_of_a_gguf_are_those_of_the_same_config():
    def rotary(**changes):
        found = from_gguf(*gguf_model(**changes)).layers[0].attention.rotary
        assert found is not None
        return found

    plain = rotary()
    linear = [f / 4 for f in plain.inverse_frequencies()]
    assert rotary(rope__scaling__type="linear", rope__scaling__factor=4.0).inverse_frequencies() == pytest.approx(
        linear
    )
    assert rotary(rope__scale_linear=4.0).inverse_frequencies() == pytest.approx(linear)
    assert rotary(rope__scaling__type="none") == plain
    yarn = rotary(
        rope__scaling__type="yarn",
        rope__scaling__factor=4.0,
        rope__scaling__original_context_length=512,
        rope__freq_base=1e6,
    )
    config = LLAMA_3_2_1B | {
        "head_dim": 16,
        "rope_theta": 1e6,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
    }
    expected = from_hf_config(config).layers[0].attention.rotary
    assert expected is not None
    assert yarn.inverse_frequencies() == expected.inverse_frequencies()
    assert yarn.attention_factor() == pytest.approx(expected.attention_factor())
    with pytest.raises(UnsupportedModelError, match=r"llama\.rope\.scaling\.type is 'longrope'"):
        rotary(rope__scaling__type="longrope")


def test_a_mixture_of_experts_in_a_gguf_is_refused():
    with pytest.raises(UnsupportedModelError, match=r"qwen2\.expert_count: mixtures of experts are not supported"):
        from_gguf(*gguf_model("qwen2", expert_count=8))


@accepting(0.01)
@tried(150)
@given(data=st.data())
def test_any_value_in_any_key_of_a_gguf_gives_a_spec_or_a_model_error(data):
    architecture = data.draw(st.sampled_from(["llama", "smollm3", "qwen2", "qwen3", "gemma3"]))
    metadata, tensors = gguf_model(architecture)
    extra = [f"{architecture}.{key}" for key in ("rope.dimension_count", "rope.freq_base", "rope.scaling.type")]
    key = data.draw(st.sampled_from([*metadata, *extra]))
    metadata[key] = data.draw(NUMBERS | JUNK | st.just(metadata.get(key, 8)))
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from(sorted(tensors)))
        shape = data.draw(st.just(tensors[name][1]) | st.lists(st.integers(1, 512), min_size=1, max_size=3).map(tuple))
        tensors[name] = (data.draw(st.sampled_from(["f32", "q4_k", "iq4_xs"])), shape)
    try:
        exercise(from_gguf(metadata, tensors))
    except ModelError:
        return False
    return True


def test_a_gguf_of_an_unknown_architecture_or_format_is_refused_with_what_is_supported():
    metadata, tensors = gguf_model()
    with pytest.raises(UnsupportedModelError, match=r"GGUF architecture 'rwkv7' is not supported; supported are llama"):
        from_gguf(metadata | {"general.architecture": "rwkv7"}, tensors)
    tensors["blk.1.ffn_up.weight"] = ("iq2_xs", (96, 64))
    with pytest.raises(UnsupportedModelError, match=r"blk\.1\.ffn_up\.weight is stored as iq2_xs"):
        from_gguf(metadata, tensors)


def test_a_gguf_that_lacks_a_tensor_or_has_another_shape_of_it_is_refused_by_its_name():
    metadata, tensors = gguf_model()
    del tensors["blk.0.attn_k.weight"]
    with pytest.raises(InvalidConfigError, match=r"tensor blk\.0\.attn_k\.weight is missing"):
        from_gguf(metadata, tensors)
    metadata, tensors = gguf_model()
    tensors["blk.0.attn_k.weight"] = ("q4_0", (64, 64))
    with pytest.raises(
        InvalidConfigError, match=r"attn_k\.weight has the shape \[64, 64\], which the metadata makes \[32, 64\]"
    ):
        from_gguf(metadata, tensors)


@pytest.mark.parametrize("name", ["attention.head_count", "attention.head_count_kv", "feed_forward_length"])
def test_a_number_that_gguf_metadata_lists_for_each_layer_counts_where_all_layers_share_it(name):
    metadata, tensors = gguf_model("llama")
    expected = from_gguf(metadata, tensors)
    value = metadata[f"llama.{name}"]
    assert from_gguf(metadata | {f"llama.{name}": (value, value)}, tensors) == expected
    with pytest.raises(
        UnsupportedModelError, match=rf"llama\.{name} differs between layers \(\[{value}, {value + 2}\]\)"
    ):
        from_gguf(metadata | {f"llama.{name}": (value, value + 2)}, tensors)
    with pytest.raises(InvalidConfigError, match=rf"llama\.{name}"):
        from_gguf(metadata | {f"llama.{name}": ()}, tensors)


@pytest.mark.parametrize(
    ("scaling", "longest"),
    [
        ({"type": "none", "factor": 4.0}, 256),
        ({"type": "linear", "factor": 4.0}, 1024),
        ({"type": "yarn", "factor": 4.0}, 1024),
        ({"type": "yarn", "factor": 4.0, "original_context_length": 64}, 256),
        ({"type": "linear", "factor": 8.0, "original_context_length": 64}, 512),
    ],
)
def test_a_gguf_file_is_as_long_as_its_scaling_makes_it(scaling, longest):
    metadata, tensors = gguf_model("llama")
    metadata |= {"llama.context_length": 256} | {f"llama.rope.scaling.{key}": value for key, value in scaling.items()}
    assert from_gguf(metadata, tensors).max_position == longest
