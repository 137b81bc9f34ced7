"""Weights that a checkpoint stores packed, transposed or in several tensors reach an executor as the spec has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.checkpoint import TensorInfo
from octavo_engine.weights.dummy import DummyCheckpoint
from octavo_engine.weights.load import load_pieces, load_weights
from octavo_models import ModelSpec
from octavo_models.architectures.llama import HF_LLAMA
from octavo_models.heads import Heads
from octavo_models.layers import Layer, Mlp, Norm
from octavo_models.spec_draft import SpecDraft, complete
from octavo_models.tensors import At, Rows, TensorMap, at, packed

HEADS = Heads(4, 2, 8)
HIDDEN, INNER, VOCAB = 32, 24, 10
Q, KV = HEADS.num * HEADS.dim, HEADS.num_kv * HEADS.dim


class Stored:
    """A checkpoint of float32 arrays, which records the rows that are read."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self._arrays = arrays
        self.read_rows: dict[str, int] = {}
        self.tensors = {
            name: TensorInfo(name, "f32", array.shape, Path("stored"), 0, array.nbytes)
            for name, array in arrays.items()
        }

    def read(self, name: str, rows: tuple[int, int] | None = None) -> memoryview:
        first, last = rows or (0, len(self._arrays[name]))
        self.read_rows[name] = self.read_rows.get(name, 0) + last - first
        return np.ascontiguousarray(self._arrays[name][first:last]).reshape(-1).view(np.uint8).data

    def close(self) -> None: ...


def spec_of(tensors: TensorMap, *, bias: bool = False) -> ModelSpec:
    norm = Norm()
    attention = HEADS.attention(None, qkv_bias=bias)
    layer = Layer(attention, Mlp(INNER), norm, None, norm, None)
    draft = SpecDraft(VOCAB, HIDDEN, (layer,), norm, 64, tied_head=True, tensors=tensors)
    return complete(draft, "Test", lambda _: "f32", "float32", None)


def arrays_of(spec: ModelSpec) -> dict[str, np.ndarray]:
    """The weights, by our names and as executors expect them."""
    rng = np.random.default_rng(3)
    return {weight.name: rng.normal(size=weight.shape).astype(np.float32) for weight in spec.weights}


def store(spec: ModelSpec, whole: dict[str, np.ndarray], tensors: dict[str, np.ndarray]) -> Stored:
    """`tensors` in place of those that the spec finds elsewhere than a plain Llama's."""
    plain = {w.sources[0].tensor: whole[w.name] for w in spec_of(HF_LLAMA).weights}
    used = {source.tensor for weight in spec.weights for source in weight.sources}
    return Stored({name: array for name, array in (plain | tensors).items() if name in used})


def in_groups(parts: list[np.ndarray], groups: int) -> np.ndarray:
    """The rows of `parts`, one group of each after another."""
    split = [part.reshape(groups, -1, *part.shape[1:]) for part in parts]
    return np.concatenate(split, axis=1).reshape(-1, *parts[0].shape[1:])


QKV = (("q", Q), ("k", KV), ("v", KV))
GATE_UP = (("gate", INNER), ("up", INNER))
ATTENTION, MLP = "model.layers.0.self_attn.", "model.layers.0.mlp."


def layer(whole: dict[str, np.ndarray], *names: str) -> list[np.ndarray]:
    return [whole[f"layers.0.{name}"] for name in names]


def phi3(whole: dict[str, np.ndarray]) -> tuple[dict[str, At], dict[str, np.ndarray]]:
    entries = packed("self_attn.qkv_proj", *QKV) | packed("mlp.gate_up_proj", *GATE_UP)
    return entries, {
        f"{ATTENTION}qkv_proj.weight": np.concatenate(layer(whole, "q", "k", "v")),
        f"{MLP}gate_up_proj.weight": np.concatenate(layer(whole, "gate", "up")),
    }


def falcon(whole: dict[str, np.ndarray]) -> tuple[dict[str, At], dict[str, np.ndarray]]:
    """Each KV group's queries, key and value, one group after another."""
    return packed("self_attn.query_key_value", *QKV, groups=HEADS.num_kv), {
        f"{ATTENTION}query_key_value.weight": in_groups(layer(whole, "q", "k", "v"), HEADS.num_kv)
    }


def gpt2(whole: dict[str, np.ndarray]) -> tuple[dict[str, At], dict[str, np.ndarray]]:
    return packed("self_attn.c_attn", *QKV, transposed=True) | {"up": at("mlp.c_fc", transposed=True)}, {
        f"{ATTENTION}c_attn.weight": np.concatenate(layer(whole, "q", "k", "v")).T,
        f"{MLP}c_fc.weight": whole["layers.0.up"].T,
    }


def experts(whole: dict[str, np.ndarray]) -> tuple[dict[str, At], dict[str, np.ndarray]]:
    names = [f"mlp.experts.{e}.up_proj" for e in range(3)]
    parts = np.split(whole["layers.0.up"], 3)
    return {"up": at(*names)}, {f"model.layers.0.{name}.weight": part for name, part in zip(names, parts, strict=True)}


def gpt_oss(whole: dict[str, np.ndarray]) -> tuple[dict[str, At], dict[str, np.ndarray]]:
    """Rows of gate and up in turn, in a tensor that is named without `.weight`."""
    entries = {
        name: At(("mlp.gate_up_proj",), rows=Rows(i, 1, 2, INNER), weight="", bias="_bias")
        for i, (name, _) in enumerate(GATE_UP)
    }
    return entries, {f"{MLP}gate_up_proj": in_groups(layer(whole, "gate", "up"), INNER)}


@pytest.mark.parametrize("layout", [phi3, falcon, gpt2, experts, gpt_oss])
def test_a_layout_of_published_checkpoints_is_brought_to_the_specs(layout):
    whole = arrays_of(spec_of(HF_LLAMA))
    entries, tensors = layout(whole)
    spec = spec_of(HF_LLAMA.updated(entries))
    checkpoint = store(spec, whole, tensors)
    for weight, loaded in load_weights(spec, checkpoint):
        assert loaded.data.flags.c_contiguous
        np.testing.assert_array_equal(loaded.data.view(np.float32).reshape(weight.shape), whole[weight.name])
    wanted = {"layers.0.q": ((8, 24),), "layers.0.up": ((5, 9), (11, 19))}
    for weight, pieces in load_pieces(spec, checkpoint, wanted, most_elements=3 * HIDDEN):
        found = np.concatenate([piece.data.view(np.float32) for piece in pieces])
        ranges = wanted.get(weight.name, ((0, None),))
        expected = np.concatenate([whole[weight.name][first:last] for first, last in ranges])
        np.testing.assert_array_equal(found.reshape(expected.shape), expected)


def test_biases_of_a_packed_module_are_cut_as_its_rows_are():
    tensors = HF_LLAMA.updated(packed("self_attn.query_key_value", *QKV, groups=HEADS.num_kv))
    spec = spec_of(tensors, bias=True)
    whole = arrays_of(spec)
    module = f"{ATTENTION}query_key_value"
    checkpoint = store(
        spec,
        whole,
        {
            f"{module}.weight": in_groups(layer(whole, "q", "k", "v"), HEADS.num_kv),
            f"{module}.bias": in_groups(layer(whole, "q_bias", "k_bias", "v_bias"), HEADS.num_kv),
        },
    )
    for weight, loaded in load_weights(spec, checkpoint):
        np.testing.assert_array_equal(loaded.data.view(np.float32).reshape(weight.shape), whole[weight.name])


@pytest.mark.parametrize("stored", [(HEADS.num, HEADS.dim), (1, Q)])
def test_a_vector_may_be_stored_with_several_axes(stored):
    """Norms of each head's own (Command R) and routers' corrections (ERNIE 4.5) are stored so."""
    spec = spec_of(HF_LLAMA, bias=True)
    whole = arrays_of(spec)
    biases = {f"{ATTENTION}{name}_proj.bias": whole[f"layers.0.{name}_bias"] for name in "qkv"}
    bias = biases[f"{ATTENTION}q_proj.bias"]
    checkpoint = store(spec, whole, biases | {f"{ATTENTION}q_proj.bias": bias.reshape(stored)})
    loaded = {weight.name: data for weight, data in load_weights(spec, checkpoint)}["layers.0.q_bias"]
    assert loaded.shape == (Q,)
    np.testing.assert_array_equal(loaded.data.view(np.float32), bias[None])


def test_only_the_rows_of_a_part_are_read_where_they_follow_one_another():
    whole = arrays_of(spec_of(HF_LLAMA))
    entries, tensors = phi3(whole)
    spec = spec_of(HF_LLAMA.updated(entries))
    checkpoint = store(spec, whole, tensors)
    wanted = {"layers.0.gate": ((0, 4),), "layers.0.up": ((8, 10), (12, 14))}
    for _, pieces in load_pieces(spec, checkpoint, wanted, most_elements=1 << 20):
        list(pieces)
    assert checkpoint.read_rows[f"{MLP}gate_up_proj.weight"] == 8
    assert checkpoint.read_rows[f"{ATTENTION}qkv_proj.weight"] == Q + 2 * KV


def test_of_experts_in_tensors_of_their_own_only_the_rows_of_a_part_are_read():
    whole = arrays_of(spec_of(HF_LLAMA))
    entries, tensors = experts(whole)
    spec = spec_of(HF_LLAMA.updated(entries))
    checkpoint = store(spec, whole, tensors)
    for _, pieces in load_pieces(spec, checkpoint, {"layers.0.up": ((2, 5), (18, 21))}, most_elements=1 << 20):
        list(pieces)
    assert [checkpoint.read_rows.get(f"{MLP}experts.{e}.up_proj.weight", 0) for e in range(3)] == [3, 0, 3]


def test_a_packed_tensor_with_too_few_rows_is_named():
    whole = arrays_of(spec_of(HF_LLAMA))
    entries, tensors = phi3(whole)
    spec = spec_of(HF_LLAMA.updated(entries))
    name = f"{ATTENTION}qkv_proj.weight"
    checkpoint = store(spec, whole, tensors | {name: tensors[name][:-1]})
    with pytest.raises(ModelLoadError, match=r"qkv_proj\.weight has the shape \[63, 32\]"):
        list(load_weights(spec, checkpoint))


@pytest.mark.parametrize("layout", [phi3, falcon, gpt2, experts, gpt_oss])
def test_dummy_weights_have_the_tensors_of_each_layout(layout):
    whole = arrays_of(spec_of(HF_LLAMA))
    entries, tensors = layout(whole)
    spec = spec_of(HF_LLAMA.updated(entries))
    dummy = DummyCheckpoint(spec)
    assert {name: dummy.tensors[name].shape for name in tensors} == {n: a.shape for n, a in tensors.items()}
    for weight, loaded in load_weights(spec, dummy):
        assert loaded.shape == weight.shape
        assert loaded.data.nbytes == weight.nbytes
