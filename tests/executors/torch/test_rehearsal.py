"""The kernels that a rehearsal finds are all that an engine launches, whatever it is asked; and they are few."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import random
from collections.abc import Iterator

import msgspec
import pytest
import torch
from octavo_testing import tiny_encoders, tiny_models
from octavo_testing.gguf_files import write_mixed_gguf
from octavo_testing.kernel_traffic import MODELS, config_for, core_over, shallow, traffic

from octavo_engine.config import AdapterConfig, ModelConfig
from octavo_engine.executors.torch import model_configs, rehearsal
from octavo_engine.executors.torch.model_configs import QWEN3_30B_A3B
from octavo_engine.executors.torch.parallel import Parallel
from octavo_engine.executors.torch.rehearsal import RecordingLauncher, described_weights, kernels_of, rehearse
from octavo_engine.executors.torch.reported_kernels import packed_in
from octavo_engine.executors.torch.weights import read_weights
from octavo_engine.kernels import triton as kernels
from octavo_engine.kernels.packed_weight import PackedWeight
from octavo_engine.kernels.triton.launch import Gpu, Launcher
from octavo_engine.kernels.triton.variants import Pointer, Variant
from octavo_engine.messages import PoolingRequest
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve
from octavo_models import from_hf_config
from octavo_models.partition import Place
from octavo_models.spec import ModelSpec

MOST_VARIANTS = 150
GPU = Gpu(90, 132)
GEMMA = {
    "vocab_size": 262_144,
    "num_attention_heads": 8,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "torch_dtype": "bfloat16",
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
}
GEMMA_3N = GEMMA | {
    "architectures": ["Gemma3nForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "activation_sparsity_pattern": 0.95,
}
GEMMA_4 = GEMMA | {
    "architectures": ["Gemma4ForCausalLM"],
    "hidden_size": 1536,
    "intermediate_size": 6144,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "use_double_wide_mlp": True,
}
ALL_MODELS = MODELS | {"Qwen3-30B-A3B": QWEN3_30B_A3B, "Gemma 3n": GEMMA_3N, "Gemma 4": GEMMA_4}
LAYERS = {
    "Qwen3-30B-A3B": 1,
    "Llama-3-8B": 1,
    "Gemma 3 270M": 6,
    "SmolLM2-135M": 1,
    "Gemma 3n": 4,
    "Gemma 4": 4,
}  # all kinds of layers are among the first so many
CASES = [
    ("Llama-3-8B", {}, "auto", Place(), 256),
    ("Gemma 3 270M", {}, "float16", Place(), 64),
    ("Gemma 3n", {}, "auto", Place(), 5),
    ("Gemma 4", {}, "auto", Place(), 5),
    ("SmolLM2-135M", {}, "auto", Place(), 7),
    ("SmolLM2-135M", {"vocab_size": 50_257, "intermediate_size": 1530}, "float32", Place(), 100),
    ("Llama-3-8B", {"vocab_size": 128_257}, "auto", Place(1, 2), 33),
    ("Qwen3-30B-A3B", {}, "auto", Place(1, 2), 48),
    ("Qwen3-30B-A3B", {"num_experts": 8, "num_experts_per_tok": 2, "mlp_only_layers": [1]}, "auto", Place(), 16),
]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "fields", "dtype", "place", "max_num_seqs"), CASES)
def test_random_traffic_meets_no_kernel_beyond_those_rehearsed(model, fields, dtype, place, max_num_seqs):
    """1, 2, 3, 32 and 256 requests of odd lengths with anything asked of them, over the executor's own buffers."""
    config = config_for(max_num_seqs, dtype)
    spec = shallow(ALL_MODELS[model] | fields, LAYERS[model])
    rehearsed = set(kernels_of(config, spec, Launcher(GPU), Parallel(place)))
    assert len(rehearsed) < MOST_VARIANTS
    recorder = RecordingLauncher(GPU)
    core = core_over(recorder, config, spec, place)
    for burst in traffic(core, spec, seed=len(fields) + max_num_seqs):
        beyond = recorder.recorded.keys() - rehearsed
        assert not beyond, f"met among {burst} requests: {[str(v) for v in beyond]}"
    core.close()
    unmet = {variant.name for variant in rehearsed - recorder.recorded.keys()}
    assert not unmet, "what no traffic meets need not be compiled"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A model whose matrices are of every format."""
    path = write_mixed_gguf(tmp_path_factory.mktemp("mixed") / "mixed.gguf")
    model = ModelConfig(model=str(path), served_model_names=("mixed",))
    files = resolve(model, lambda *_: None)
    return read_spec(model, files), files


@pytest.mark.parametrize("place", [Place(), Place(1, 2), Place(0, 1, 1, 2)])
def test_described_weights_are_laid_out_as_those_that_are_read(mixed, place):
    spec, files = mixed
    dtype = torch.bfloat16
    described = described_weights(spec, place, dtype, packed=True)
    read = read_weights(spec, files, dtype, torch.device("cpu"), 0, place, packed=True)
    assert described.keys() == read.keys()
    assert any(isinstance(weight, PackedWeight) for weight in read.values())
    for name, weight in read.items():
        assert layout(described[name]) == layout(weight), name


def layout(weight):
    if isinstance(weight, torch.Tensor):
        return weight.shape, weight.dtype
    fields = (getattr(weight, field.name) for field in dataclasses.fields(weight))
    return [layout(value) if isinstance(value, torch.Tensor) else value for value in fields]


def test_packed_weights_of_every_format_meet_no_kernel_beyond_those_rehearsed(mixed):
    spec = dataclasses.replace(mixed[0], dtype="bfloat16")  # as a GPU takes it; a CPU keeps to the file's float32
    rehearsed = set(kernels_of(config_for(100), spec, Launcher(GPU)))
    assert len(rehearsed) < MOST_VARIANTS
    recorder = RecordingLauncher(GPU)
    core = core_over(recorder, config_for(100), spec)
    for burst in traffic(core, spec, seed=3):
        beyond = recorder.recorded.keys() - rehearsed
        assert not beyond, f"met among {burst} requests: {[str(v) for v in beyond]}"
    core.close()


@pytest.mark.sample(model=["SmolLM2-135M"])
@pytest.mark.parametrize("model", MODELS)
def test_the_longest_sequence_adds_no_kernels(monkeypatch, model):
    """A pod with another --max-model-len finds what the last one compiled."""
    spec = from_hf_config(MODELS[model])
    found = []
    for length in (1000, rehearsal.MOST_LENGTH, 8192):
        monkeypatch.setattr(rehearsal, "MOST_LENGTH", length)
        found.append(set(kernels_of(config_for(), spec, Launcher(GPU))))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("num_sms", [56, 114, 300])
def test_how_many_sms_a_gpu_has_adds_no_kernels(num_sms):
    """`octavo compile` has a GPU's capability alone; its number of SMs decides whether products of 4-bit weights are
    split.
    """
    spec = packed_in("q4_k", from_hf_config(MODELS["Llama-3-8B"]))
    config, gpu = config_for(), Gpu(90, num_sms)
    assert rehearse(config, spec, Launcher(gpu)).keys() <= set(kernels_of(config, spec, Launcher(Gpu(90, 1))))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["modernbert classifier", "embeddinggemma", "bert with mean pooling"])
def test_random_prompts_that_are_pooled_meet_no_kernel_beyond_those_rehearsed(kind):
    """Steps of one prompt and of many, of one token and of hundreds, with token types and without."""
    config, spec = config_for(32, "float32"), from_hf_config(tiny_encoders.config_of(kind))
    rehearsed = set(kernels_of(config, spec, Launcher(GPU)))
    assert {variant.name for variant in rehearsed} >= {"pool_kernel", "prefill_kernel"}
    recorder = RecordingLauncher(GPU)
    core = core_over(recorder, config, spec)
    chance = random.Random(7)
    for burst in (1, 2, 3, 40):
        for i in range(burst):
            length = chance.choice([1, 2, 15, 16, 17, 100, spec.max_position])
            tokens = [chance.randrange(spec.vocab_size) for _ in range(length)]
            core.add(
                PoolingRequest(
                    request_id=str(i), prompt_token_ids=tokens, arrival_time=0.0, second_segment=chance.choice([0, 1])
                )
            )
        while core.has_work:
            core.step()
        beyond = recorder.recorded.keys() - rehearsed
        assert not beyond, f"met among {burst} prompts: {[str(v) for v in beyond]}"
    core.close()


NO_MODELS = {"round_rows_kernel", "float8_kernel", "sigmoid_gate_kernel"}  # no model that is read has such parts
# With the models of real shapes these launch every kernel.
OTHERS = ("apertus", "llama 4", "olmo 2", "qwen 2 with experts")


ADAPTERS = AdapterConfig(enabled=True, max_loras=4, max_lora_rank=16, max_cpu_loras=4)


def rehearsals() -> Iterator[tuple[str, ModelSpec, Place]]:
    """The models of real shapes, two of them packed too, and one of two ranks of some others; all with adapters."""
    shapes = {name: from_hf_config(config) for name, config in vars(model_configs).items() if name.isupper()}
    for label, spec in shapes.items():
        yield label, spec, Place()
    for packed in ("LLAMA_3_8B", "QWEN3_30B_A3B"):
        yield f"{packed} in Q4_K", packed_in("q4_k", shapes[packed]), Place()
    for kind in OTHERS:
        yield kind, from_hf_config(tiny_models.config_json(kind)), Place(1, 2)


def numbers_left_out(variant: Variant) -> Variant:
    args = tuple(arg if arg is None or isinstance(arg, (Pointer, float)) else 0 for arg in variant.args)
    return dataclasses.replace(variant, args=args)


def test_no_key_depends_on_a_buffers_place_or_a_steps_counts():
    """A kernel whose key did would be compiled while serving, once for each way in which a step's pieces may lie."""
    met = set()
    for label, spec, place in rehearsals():
        config = msgspec.structs.replace(config_for(100), adapters=ADAPTERS)
        variants = set(kernels_of(config, spec, Launcher(GPU), Parallel(place)))
        for variant in variants:
            assert all(arg.aligned for arg in variant.args if isinstance(arg, Pointer)), f"{label}: {variant}"
        if label not in OTHERS:  # theirs have sizes of either kind
            assert len({numbers_left_out(variant) for variant in variants}) == len(variants), label
        assert len(variants) < MOST_VARIANTS, label
        met |= {variant.name for variant in variants}
    modules = (importlib.import_module(f"{kernels.__name__}.{m.name}") for m in pkgutil.iter_modules(kernels.__path__))
    assert met == {name for module in modules for name in vars(module) if name.endswith("_kernel")} - NO_MODELS
