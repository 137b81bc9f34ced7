"""No step takes more memory than its configuration comes to, counted by every allocation of random steps.

Shapes are those of Llama 3's models on one GPU and on eight; tensors have no memory, and kernels are not run.
"""

from __future__ import annotations

import random

import msgspec
import pytest
import torch
from allocations import META, Allocations

from octavo_engine.config import AdapterConfig, CacheConfig, EngineConfig, ModelConfig, ModelFiles, SchedulerConfig
from octavo_engine.core.outputs import NewRequest, SchedulerOutput
from octavo_engine.executors.torch import parallel
from octavo_engine.executors.torch.executor import TorchExecutor
from octavo_engine.executors.torch.memory import EVERYTHING, largest_step
from octavo_engine.executors.torch.parallel import ALONE, RankedParallel
from octavo_engine.executors.torch.step_memory import REQUEST_BYTES, count_bytes, step_bytes, table_bytes
from octavo_engine.kernels.triton import decode_step
from octavo_engine.kernels.triton.launch import Gpu, Launcher
from octavo_engine.kernels.triton.operations import TritonOperations
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.weights.adapter import Adapter
from octavo_models import from_hf_config
from octavo_models.adapted import adapted_products, slot_elements
from octavo_models.partition import Place

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128_256,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "bfloat16",
}
LLAMA_8B = LLAMA | {
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
LLAMA_70B = LLAMA | {
    "hidden_size": 8192,
    "intermediate_size": 28_672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}
GEMMA = LLAMA | {
    "architectures": ["Gemma3ForCausalLM"],
    "vocab_size": 262_144,
    "hidden_size": 2560,
    "intermediate_size": 10_240,
    "num_hidden_layers": 34,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "sliding_window": 1024,
    "tie_word_embeddings": True,
}
QWEN_MOE = LLAMA | {
    "architectures": ["Qwen2MoeForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632,
}
QWEN_30B = QWEN_MOE | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "num_key_value_heads": 4,
    "num_attention_heads": 32,
    "head_dim": 128,
}
DEEPSEEK_LITE = QWEN_MOE | {
    "architectures": ["DeepseekV2ForCausalLM"],
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 512,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
DEEPSEEK = DEEPSEEK_LITE | {
    "hidden_size": 5120,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
}
GEMMA_3N = GEMMA | {
    "architectures": ["Gemma3nForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 16_384,
    "num_key_value_heads": 2,
    "num_kv_shared_layers": 0,
    "activation_sparsity_pattern": 0.95,
}
GEMMA_4 = GEMMA | {"architectures": ["Gemma4ForCausalLM"], "num_key_value_heads": 2}
GEMMA_4_MOE = GEMMA_4 | {
    "attention_k_eq_v": True,
    "enable_moe_block": True,
    "hidden_size": 2816,
    "hidden_size_per_layer_input": 0,
    "intermediate_size": 2112,
    "moe_intermediate_size": 704,
    "num_attention_heads": 16,
    "num_experts": 128,
    "num_global_key_value_heads": 2,
    "num_key_value_heads": 8,
    "top_k_experts": 8,
}
GEMMAS = [
    ("Gemma 3n", GEMMA_3N, 1),
    ("Gemma 3n", GEMMA_3N, 2),
    ("Gemma 4", GEMMA_4, 1),
    ("Gemma 4 with experts", GEMMA_4_MOE, 1),
    ("Gemma 4 with experts", GEMMA_4_MOE, 2),
]
LATENTS = [("DeepSeek-V2-Lite", DEEPSEEK_LITE, 1), ("DeepSeek-V2", DEEPSEEK, 1), ("DeepSeek-V2", DEEPSEEK, 8)]
EXPERTS = [("Qwen 1.5 MoE", QWEN_MOE, 1), ("Qwen3-30B-A3B", QWEN_30B, 1), ("Qwen3-30B-A3B", QWEN_30B, 4)]
CASES = [("8B", LLAMA_8B, 1), ("8B", LLAMA_8B, 8), ("70B", LLAMA_70B, 1), ("70B", LLAMA_70B, 8), ("Gemma", GEMMA, 1)]
SCHEDULERS = [(256, 8192), (16, 16)]


class Unlaunched(Launcher):
    """Kernels do nothing."""

    def __call__(self, kernel, grid, *args, **options):
        assert all(n > 0 for n in grid) or not all(grid)


def executor_of(config, ranks, scheduler, monkeypatch, adapters=None):
    """The first rank's, of a model with weights of no memory; its layers are cut to three, for all are alike."""
    monkeypatch.setattr(parallel, "gather_into", lambda out, own, group: None)
    monkeypatch.setattr(parallel.dist, "all_reduce", lambda x, group: None)
    spec = from_hf_config(config | {"num_hidden_layers": 3})
    place = Place.of(0, ranks, 1)
    engine = EngineConfig(
        model=ModelConfig(model="random", served_model_names=("random",)),
        cache=CacheConfig(kv_cache_memory_bytes=1 << 30),
        scheduler=SchedulerConfig(max_num_seqs=scheduler[0], max_num_batched_tokens=scheduler[1]),
        adapters=adapters or AdapterConfig(),
    )

    def weights():
        return {w.name: torch.empty(w.shape, dtype=torch.bfloat16, device=META) for w in executor.runner.spec.weights}

    executor = TorchExecutor(
        engine,
        spec,
        ModelFiles(folder="", config=None, weights=(), weights_format="dummy", tokenizer=None),
        META,
        ALONE if ranks == 1 else RankedParallel(place),
        operations=TritonOperations(Unlaunched(Gpu(90, 132))),
        weights=weights,
    )
    return executor


def bound_of(executor):
    return step_bytes(
        executor.runner.spec,
        executor.config.scheduler,
        executor.runner.layout,
        executor.runner.parallel.place,
        executor.runner.ops,
        element_size=2,
        max_len=131_072,
        adapter_width=0 if executor.runner.adapters is None else executor.runner.adapters.width,
    )


def parameters(rng):
    """The parameters of one request: nothing beside a choice, everything at once, or tops of the whole vocabulary."""
    return rng.choice(
        [
            SamplingParams(max_tokens=2),
            SamplingParams(max_tokens=2, temperature=0.0),
            EVERYTHING,
            SamplingParams(max_tokens=2, logprobs=rng.choice([0, 20, -1])),
            SamplingParams(max_tokens=2, bad_words=((1, 2), (3,)), logit_bias=dict.fromkeys(range(300), 1.0)),
        ]
    )


def random_step(rng, layout, scheduler, step_id):
    """New requests alone, as after a failure: decodes of any length, chunks of prompts, prompts to be scored."""
    num_seqs, num_tokens = scheduler
    n = rng.choice([1, 2, num_seqs // 2, num_seqs])
    left, new, counts, wanted, samples = num_tokens, [], {}, {}, set()
    alike = parameters(rng)
    longest = rng.choice([64, 2048, 131_072])
    known = 300_000  # tokens of all: lists of them take a test's time
    for i in range(n):
        count = 1 if rng.random() < 0.8 or left <= n else rng.randint(1, left - n + 1)
        count = min(count, left, longest)
        if not count:
            break
        length = max(count, min(rng.choice([count, rng.randint(count, longest), longest]), known))
        known -= length
        sampling = alike if rng.random() < 0.8 else parameters(rng)
        name = f"{step_id}-{i}"
        blocks = tuple([1] * -(-length // layout.block_size) for _ in layout.groups)
        new.append(NewRequest(name, [0] * length, sampling, blocks, length - count))
        counts[name], left = count, left - count
        if rng.random() < 0.9:
            samples.add(name)
            wanted[name] = count if sampling.prompt_logprobs is not None else 1
    return SchedulerOutput(step_id, tuple(new), (), counts, wanted, frozenset(samples), finished_ids=())


def run(executor, step):
    handle = executor.submit(step)
    executor.sample(handle)
    executor.runner._drawn.clear()  # reading the tops of a whole vocabulary would take a test's time
    executor.runner.requests.clear()


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(("name", "config", "ranks"), [*CASES, *EXPERTS, *LATENTS, *GEMMAS])
def test_no_step_takes_more_than_its_configuration_comes_to(name, config, ranks, scheduler, monkeypatch):
    """Steps of any lengths, with any parameters; and the largest one comes near to it, so the figure is no guess."""
    executor = executor_of(config, ranks, scheduler, monkeypatch)
    with Allocations() as device:
        executor.load()
        executor.init_kv((64,) * len(executor.runner.layout.groups))
        bound = bound_of(executor)
        before = device.live
        rng = random.Random(f"{name} {ranks} {scheduler}")
        most = 0
        for step_id in range(6):
            device.restart()
            run(executor, random_step(rng, executor.runner.layout, scheduler, step_id))
            # A row's parameters, until the next request has it, and the counts of penalties.
            lasting = min(scheduler) * REQUEST_BYTES + count_bytes(executor.runner.spec, executor.config.scheduler)
            assert device.live - before <= lasting, "a step leaves nothing else behind"
            assert device.most - before <= bound
            most = max(most, device.most - before)
        device.restart()
        run(executor, largest_step(executor.config.scheduler, executor.runner.layout, 4096))
        assert device.most - before <= bound
        if scheduler[1] > 1000:  # short steps of long contexts are not among these
            assert max(most, device.most - before) > 0.3 * bound


def test_short_decodes_beside_a_long_one_take_scratch_for_what_they_are(monkeypatch):
    """Scratch for as many as there are of the longest would be 2.2 GB, for 255 short ones beside one of 128k."""
    executor = executor_of(LLAMA_8B, 1, (256, 8192), monkeypatch)
    lengths = [200] * 255 + [131_072]
    blocks = [tuple([1] * -(-length // 16) for _ in executor.runner.layout.groups) for length in lengths]
    new = tuple(
        NewRequest(str(i), [0] * length, SamplingParams(max_tokens=2, temperature=0.0), blocks[i], length - 1)
        for i, length in enumerate(lengths)
    )
    counts = {request.request_id: 1 for request in new}
    with Allocations() as device:
        executor.load()
        executor.init_kv((64,))
        before = device.live
        device.restart()
        executor.submit(SchedulerOutput(0, new, (), counts, {}, frozenset()))
    assert device.most - before < 64 << 20


@pytest.mark.parametrize("asking", [0, 3, 256])
def test_counts_of_penalties_are_as_many_as_ask_for_them(monkeypatch, asking):
    """Four bytes a token of the vocabulary: 256 MiB for Gemma's where all of 256 requests ask, some MiB for a few."""
    executor = executor_of(GEMMA, 1, (256, 8192), monkeypatch)
    sampling = [SamplingParams(max_tokens=2, **({"presence_penalty": 0.5} if i < asking else {})) for i in range(256)]
    blocks = tuple([1] for _ in executor.runner.layout.groups)
    new = tuple(NewRequest(str(i), [0, 0], sampling[i], blocks, 1) for i in range(256))
    names = [request.request_id for request in new]
    with Allocations() as device:
        executor.load()
        executor.init_kv((64,) * len(executor.runner.layout.groups))
        before = device.live
        run(executor, SchedulerOutput(0, new, (), dict.fromkeys(names, 1), dict.fromkeys(names, 1), frozenset(names)))
    slots = {0: 0, 3: 8, 256: 256}[asking]
    kept = device.live - before - slots * 4 * 262_144
    assert 0 <= kept < 1 << 20
    assert slots * 4 * 262_144 <= count_bytes(executor.runner.spec, executor.config.scheduler) == 256 << 20


def test_tables_are_as_wide_as_the_length_that_was_settled(monkeypatch):
    """The model's longest context may be settled to less once the memory for blocks is known."""
    executor = executor_of(LLAMA_8B, 1, (256, 8192), monkeypatch)
    with Allocations() as device:
        executor.load()
        loaded = device.live
        executor.limit_length(4096)
        assert executor.runner.requests.token_ids.shape == (256, 4096)
        tables = table_bytes(executor.config.scheduler, executor.runner.layout, 4096)
        assert tables <= device.live - loaded <= tables + 4096
        executor.init_kv((64,))
        assert executor.runner.requests.token_ids.shape == (256, 4096)


def test_a_launch_takes_no_more_runs_than_are_reserved(monkeypatch):
    """However many keys the requests of a step have together, as where they share a long prefix."""
    executor = executor_of(LLAMA_8B, 1, (256, 8192), monkeypatch)
    attention = executor.runner.spec.layers[0].attention
    scratch = executor.runner.ops.attention_scratch(256, 131_072, attention)
    assert scratch == 4 * decode_step.MOST_RUNS * attention.num_heads * (attention.head_dim_v + 2)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_steps_with_adapters_take_no_more_than_is_reserved(monkeypatch, scheduler):
    """Every row uses one of eight, in steps of prompts and of decodes; slots are there before blocks are sized."""
    asked = AdapterConfig(enabled=True, max_loras=8, max_lora_rank=64, max_cpu_loras=8)
    executor = executor_of(LLAMA_8B, 1, scheduler, monkeypatch)
    with Allocations() as device:
        executor.load()
        without = device.live
    executor = executor_of(LLAMA_8B, 1, scheduler, monkeypatch, asked)
    runner = executor.runner
    with Allocations() as device:
        executor.load()
        slots = 2 * 8 * slot_elements(adapted_products(runner.spec), 64)
        assert 0 <= device.live - without - slots < 64 << 10
        executor.init_kv((64,))
        ids = range(1, 9)
        for adapter_id in ids:
            executor.add_adapter(Adapter(adapter_id, ()))
        before, bound = device.live, bound_of(executor)
        decodes = {"max_num_batched_tokens": scheduler[0], "max_num_seqs": scheduler[0]}
        for shape in (executor.config.scheduler, msgspec.structs.replace(executor.config.scheduler, **decodes)):
            device.restart()
            run(executor, largest_step(shape, runner.layout, 4096, adapter_ids=ids))
            assert device.most - before <= bound


def test_adapters_add_to_what_is_reserved(monkeypatch):
    """What the first product of each makes, as wide as q, k and v together."""
    asked = AdapterConfig(enabled=True, max_loras=1, max_lora_rank=16)
    bounds = []
    for adapters in (AdapterConfig(), asked):
        executor = executor_of(LLAMA_8B, 1, (256, 8192), monkeypatch, adapters)
        executor.load()
        bounds.append(bound_of(executor))
    assert bounds[1] - bounds[0] == 4 * 8192 * 3 * 16 + 4 * 4 * 8192
