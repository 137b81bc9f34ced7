"""Fit is decided before a pod exists, and what does not fit is reported with what would."""

import pytest
from octavo_testing.planner_cases import A100_40, CPU, LLAMA_70B, MISTRAL_7B, SMALL, described, on_a100, planned
from octavo_testing.tiny_models import config_json

from octavo_models import from_gguf, from_hf_config
from octavo_models.formats import packed_nbytes
from octavo_models.partition import Place, kv_layout
from octavo_models.sharding import obstacle, weights_on_gpu
from octavo_operator.planner.gpus import of_cuda, of_product
from octavo_operator.planner.sizes import GIB, MIB, gib


def test_llama_70b_on_one_a100_does_not_fit_and_four_would():
    plan = planned(LLAMA_70B, **on_a100(1))
    assert plan.fit.state == "False"
    assert plan.refusal.reason == "DoesNotFit"
    assert plan.refusal.message == (
        "weights 128.5 GiB + overhead 2.7 GiB + KV 1.3 GiB for one sequence of 4096 tokens do not fit 1 × 35.6 GiB"
        " (NVIDIA-A100-SXM4-40GB × 0.90)"
    )
    assert plan.refusal.remedy == "set engine.tensorParallelSize: 4"
    assert plan.children == ()


def test_llama_70b_on_four_a100s_fits_with_four_sequences():
    plan = planned(LLAMA_70B, **on_a100(4))
    assert plan.refusal is None
    budget = plan.fit.budget
    assert (gib(budget.weights), gib(budget.overhead), gib(budget.kept_free)) == ("32.1", "2.3", "4.0")
    assert (budget.sequences, budget.sequences_within_error) == (4, (2, 5))
    assert plan.fit.message == "4 sequences of 4096 tokens at once (2 to 5, memory ± 0.6 GiB)"


def test_mistral_7b_fits_one_a100():
    budget = planned(MISTRAL_7B, **on_a100()).fit.budget
    assert gib(budget.weights) == "13.5"
    assert gib(budget.kv_per_sequence) == "0.5"
    assert budget.sequences == 40


def test_the_parts_of_a_gpu_add_up_to_it():
    budget = planned(MISTRAL_7B, **on_a100()).fit.budget
    assert budget.weights + budget.kv + budget.overhead + budget.kept_free == budget.capacity == of_cuda(40960 * MIB)


@pytest.mark.parametrize(
    ("product", "engine", "remedy"),
    [
        # The weights fit and the KV of such long sequences does not: shorter ones, or more GPUs.
        (
            "NVIDIA-L4",
            {"maxModelLen": 32768, "maxNumSeqs": 16, "minConcurrency": 4},
            "set engine.maxModelLen: 9216, or engine.tensorParallelSize: 2",
        ),
        ("Tesla-T4", {"runtime": "vllm", "maxModelLen": 4096}, "set engine.tensorParallelSize: 2"),
        # Slices of a GPU can't be joined.
        (
            "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb",
            {"maxModelLen": 4096},
            "use GPUs of 18 GiB or more, or a quantized model",
        ),
    ],
)
def test_the_remedy_is_what_would_fit(product, engine, remedy):
    plan = planned(MISTRAL_7B, accelerator={"products": [product]}, engine=engine)
    assert plan.refusal.remedy == remedy


def test_the_length_that_is_proposed_fits_and_a_step_more_does_not():
    def state(length: int) -> str:
        engine = {"maxNumSeqs": 16, "minConcurrency": 4, "maxModelLen": length}
        return planned(MISTRAL_7B, accelerator={"products": ["NVIDIA-L4"]}, engine=engine).fit.state

    assert (state(9216), state(9216 + 1024)) == ("True", "False")


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (3, "tensorParallelSize 3 does not divide the model's 32 attention heads"),
        (64, "tensorParallelSize 64 does not divide the model's 32 attention heads"),
    ],
)
def test_a_size_that_does_not_divide_the_model_is_refused(size, words):
    plan = planned(MISTRAL_7B, **on_a100(size))
    assert plan.refusal.reason == "CannotBeDivided"
    assert plan.refusal.message == words
    assert plan.refusal.remedy.startswith("set engine.tensorParallelSize: ")


def test_nine_heads_divide_by_three_only():
    spec = described(SMALL)
    assert [size for size in range(1, 13) if obstacle(spec, size, 1) is None] == [1, 3]


LATENT = SMALL | {
    "architectures": ["YoutuForCausalLM"],
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "kv_lora_rank": 512,
    "q_lora_rank": 96,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 64,
    "v_head_dim": 32,
}


def test_latents_are_held_by_every_gpu_and_counted_to_the_byte():
    spec = from_hf_config(LATENT)
    layers = len(spec.layers)
    for ranks in (1, 2, 4):
        plan = planned(LATENT, **on_a100(ranks))
        assert plan.fit.budget.kv_per_sequence == 4096 * layers * (512 + 64) * 2
    assert f"{layers} layers, 8 heads over a latent of 512" in plan.model_summary


def test_kv_heads_fewer_than_gpus_are_held_several_times():
    spec = described(LLAMA_70B)
    eight, sixteen = (kv_layout(spec, Place(0, size), 16, "bf16").kept_bytes(4096) for size in (8, 16))
    assert sixteen == eight == spec.kv_bytes(4096, "bf16") // 8


def test_stages_share_the_layers_and_the_tied_embedding_is_on_both_ends():
    spec = described(SMALL)
    whole, half = weights_on_gpu(spec, None, 1, 1), weights_on_gpu(spec, None, 1, 2)
    embedding = next(w.nbytes for w in spec.weights if w.name == "embedding")
    assert whole == spec.weight_bytes()
    assert half > (whole - embedding) // 2 + embedding - 1024
    assert half < whole


def test_minimum_concurrency_raises_what_must_fit():
    assert planned(MISTRAL_7B, **on_a100(minConcurrency=40)).fit.state == "True"
    assert planned(MISTRAL_7B, **on_a100(minConcurrency=42)).fit.state == "False"


def test_an_unknown_model_blocks_nothing():
    plan = planned(None, {"why_unknown": "no one looked"}, **on_a100())
    assert (plan.fit.state, plan.fit.reason) == ("Unknown", "ModelUnknown")
    assert plan.fit.message.endswith("no one looked")
    assert plan.refusal is None
    assert plan.children


@pytest.mark.parametrize("products", [[], ["NVIDIA-Unheard-Of"], [A100_40, "NVIDIA-Unheard-Of"]])
def test_an_unknown_gpu_blocks_nothing_and_reports_what_is_needed(products):
    plan = planned(MISTRAL_7B, accelerator={"products": products}, engine={"maxModelLen": 4096})
    assert (plan.fit.state, plan.fit.reason) == ("Unknown", "GpuUnknown")
    assert plan.fit.message.startswith("each GPU needs 15.")
    assert plan.refusal is None


def test_an_annotation_overrides_a_refusal():
    plan = planned(LLAMA_70B, annotations={"octavo.dev/ignore-fit": "true"}, **on_a100(1))
    assert plan.refusal is None
    assert (plan.fit.state, plan.fit.reason) == ("False", "OverriddenByAnnotation")


def test_a_service_that_runs_keeps_its_children():
    plan = planned(LLAMA_70B, {"serving": True}, **on_a100(1))
    assert plan.refusal is None
    assert (plan.fit.state, plan.fit.reason) == ("False", "AlreadyServing")


def test_of_several_products_the_smallest_has_to_do():
    budget = planned(
        MISTRAL_7B, accelerator={"products": [A100_40, "NVIDIA-L4"]}, engine={"maxModelLen": 4096}
    ).fit.budget
    assert (budget.product, budget.capacity) == ("NVIDIA-L4", of_cuda(23034 * MIB))


@pytest.mark.parametrize(
    ("product", "memory", "capability"),
    [
        (A100_40, of_cuda(40960 * MIB), (8, 0)),
        ("NVIDIA-H100-80GB-HBM3", of_cuda(81559 * MIB), (9, 0)),
        ("NVIDIA-H100-80GB-HBM3-SHARED", None, (9, 0)),
        ("NVIDIA-A100-SXM4-80GB-MIG-2g.20gb", int(20 * GIB * 0.95), (8, 0)),
        ("NVIDIA-H100-80GB-HBM3-MIG-1c.3g.40gb", int(40 * GIB * 0.95), (9, 0)),
        ("NVIDIA-H200-MIG-1g.18gb", int(18 * GIB * 0.88), (9, 0)),
        ("NVIDIA-H20-96GB", of_cuda(96 * GIB), None),
        ("NVIDIA-Unheard-Of", None, None),
    ],
)
def test_memory_and_capability_follow_from_the_product(product, memory, capability):
    gpu = of_product(product)
    assert (gpu.memory, gpu.capability) == (memory, capability)


@pytest.mark.parametrize(
    ("product", "total", "cuda"),
    [("Tesla-T4", 15.0, 14.6), ("NVIDIA-L4", 22.49, 22.1), ("NVIDIA-A100-SXM4-80GB", 80.0, 79.2)],
)
def test_what_cuda_has_is_less_than_what_nvidia_smi_reports(product, total, cuda):
    """The pairs are from knowledge of these products, to a tenth of a GiB."""
    assert of_product(product).memory / GIB == pytest.approx(cuda, abs=0.05)
    assert of_cuda(int(total * GIB)) / GIB == pytest.approx(cuda, abs=0.05)


def test_longer_than_the_model_was_made_for_is_refused():
    plan = planned(
        LLAMA_70B, accelerator={"products": [A100_40]}, engine={"tensorParallelSize": 4, "maxModelLen": 8192}
    )
    assert plan.refusal.reason == "ModelTooShort"
    assert plan.refusal.remedy == "set engine.maxModelLen: 4096, or leave it out"


def test_widened_weights_are_counted_widened():
    narrow = planned(MISTRAL_7B, **on_a100()).fit.budget
    wide = planned(MISTRAL_7B, **on_a100(dtype="float32")).fit.budget
    assert wide.weights == 2 * narrow.weights
    assert wide.kv_per_sequence == 2 * narrow.kv_per_sequence


@pytest.mark.parametrize("runtime", ["octavo", "vllm"])
def test_a_float32_checkpoint_counts_on_a_gpu_as_what_is_loaded(runtime):
    """In bfloat16, unless the manifest says float32."""
    stored = MISTRAL_7B | {"torch_dtype": "float32"}
    loaded = planned(stored, **on_a100(runtime=runtime)).fit.budget
    assert loaded == planned(MISTRAL_7B, **on_a100(runtime=runtime)).fit.budget
    assert planned(stored, **on_a100(runtime=runtime, dtype="float32")).fit.budget.weights == 2 * loaded.weights


def test_an_fp8_cache_takes_half():
    whole = planned(MISTRAL_7B, **on_a100()).fit.budget.kv_per_sequence
    assert planned(MISTRAL_7B, **on_a100(runtime="vllm", kvCacheDtype="fp8")).fit.budget.kv_per_sequence * 2 == whole


def test_a_cpu_without_a_limit_gets_room_for_four_sequences():
    plan = planned(SMALL, accelerator=CPU, engine={"maxModelLen": 4096})
    assert plan.limits.kv_cache_bytes == 361 * MIB
    assert plan.fit.budget.sequences == 4
    assert plan.resources.requests["memory"] == "1280Mi"
    assert plan.resources.limits["memory"] == "2176Mi", "with the largest requests that the server admits"


def test_a_cpus_kv_cache_is_what_its_memory_leaves_and_never_more_than_it_can_use():
    limits = {"limits": {"memory": "2Gi"}}
    plan = planned(SMALL, accelerator=CPU, engine={"maxModelLen": 4096}, resources=limits)
    budget = plan.fit.budget
    assert 2 * GIB - MIB < budget.weights + budget.overhead + plan.limits.kv_cache_bytes <= 2 * GIB
    plan = planned(
        SMALL, accelerator=CPU, engine={"maxModelLen": 128, "maxNumSeqs": 2}, resources={"limits": {"memory": "8Gi"}}
    )
    assert plan.limits.kv_cache_bytes == 2 * described(SMALL).kv_bytes(128, "bf16") // MIB * MIB


def test_a_cpu_whose_memory_is_too_little_is_reported_how_much_it_takes():
    limits = {"limits": {"memory": "700Mi"}}
    plan = planned(SMALL, accelerator=CPU, engine={"maxModelLen": 8192}, resources=limits)
    assert plan.refusal.reason == "DoesNotFit"
    assert plan.refusal.remedy.startswith("set resources.requests.memory: 1024Mi")


def test_an_unknown_model_on_a_cpu_gets_a_moderate_cache():
    assert planned(None, accelerator=CPU).limits.kv_cache_bytes == GIB
    assert planned(None, accelerator=CPU, resources={"limits": {"memory": "4Gi"}}).limits.kv_cache_bytes == 2 * GIB


def test_an_unknown_model_on_a_cpu_has_no_memory_limit_and_the_plan_says_so():
    """What it takes is not known; the field that bounds it is named."""

    def warned(plan):
        return any(each.startswith("no memory limit") and "resources.limits.memory" in each for each in plan.warnings)

    assert warned(planned(None, accelerator=CPU))
    assert not warned(planned(SMALL, accelerator=CPU))
    assert not warned(planned(None, accelerator=CPU, resources={"limits": {"memory": "4Gi"}}))
    assert not warned(planned(None))


def test_quantized_weights_stay_packed_on_a_gpu():
    hidden, layers = 256, 2
    metadata = {
        "general.architecture": "llama",
        "llama.attention.head_count": 4,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.block_count": layers,
        "llama.context_length": 1024,
        "llama.embedding_length": hidden,
        "llama.feed_forward_length": 512,
    }
    names = {
        "attn_q": hidden,
        "attn_k": hidden,
        "attn_v": hidden,
        "attn_output": hidden,
        "ffn_gate": 512,
        "ffn_up": 512,
    }
    tensors = {"token_embd.weight": ("q8_0", (1000, hidden)), "output_norm.weight": ("f32", (hidden,))}
    for i in range(layers):
        tensors |= {f"blk.{i}.{name}.weight": ("q4_0", (rows, hidden)) for name, rows in names.items()}
        tensors[f"blk.{i}.ffn_down.weight"] = ("q4_0", (hidden, 512))
        tensors |= {f"blk.{i}.{name}.weight": ("f32", (hidden,)) for name in ("attn_norm", "ffn_norm")}
    spec = from_gguf(metadata, tensors)
    eight = 1000 * hidden * 34 // 32
    four = layers * (4 * hidden + 3 * 512) * hidden * 18 // 32  # a scale for each 32, as in the file
    norms = (2 * layers + 1) * hidden * 2
    assert weights_on_gpu(spec, None, 1, 1) == eight + four + norms < spec.weight_bytes("bfloat16") / 2
    assert weights_on_gpu(spec, None, 4, 1) == (eight + four) // 4 + norms


@pytest.mark.parametrize(
    ("name", "columns", "row"),
    [
        ("q4_0", 96, 54),
        ("q4_k", 512, 296),
        ("q4_k", 4736, 4736 * 144 // 256 + 20 * 4),
        ("q6_k", 64, 72),
        ("q8_0", 64, 68),
    ],
)
def test_a_part_of_a_k_format_counts_every_super_block_that_it_may_touch(name, columns, row):
    """4,736 columns, a rank's of 18,944, begin or end inside of one, and lie in 20 of them at most."""
    assert packed_nbytes(name, (3, columns)) == 3 * row


def test_what_layers_have_of_a_token_alone_is_part_of_a_steps_memory():
    """The per-layer inputs of Gemma 4: 16 elements in float32 for each of four layers and 128 tokens of a step."""
    engine = {"maxModelLen": 64, "maxNumSeqs": 2, "maxNumBatchedTokens": 128}
    config = config_json("gemma 4")
    some, none = (
        planned(config | {"hidden_size_per_layer_input": size}, accelerator=CPU, engine=engine).fit.budget.overhead
        for size in (16, 0)
    )
    assert some - none == 128 * 4 * 16 * 4
