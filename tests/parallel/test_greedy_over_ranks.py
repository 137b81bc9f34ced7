"""A model gives the same tokens over any number of ranks."""

from __future__ import annotations

import json
import re

import pytest
from octavo_testing.engine_runs import LETTERS, engine_config, request
from octavo_testing.gguf_files import write_mixed_gguf
from rank_pool import spread
from rank_worker import POISON

from octavo_engine.config import CacheConfig, ModelConfig, SchedulerConfig
from octavo_engine.engine.loader import find_files, read_description
from octavo_engine.errors import ConfigError

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 301,  # no size here divides it
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "torch_dtype": "float32",
}
BIASES = {"attention_bias": True, "mlp_bias": True}
MISTRAL = LLAMA | {"architectures": ["MistralForCausalLM"], "sliding_window": 9, "num_key_value_heads": 4}
# Three windows, then one layer that sees all: stages that have no layer of a group.
GEMMA = LLAMA | {
    "architectures": ["Gemma3ForCausalLM"],
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "sliding_window": 8,
    "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
    "tie_word_embeddings": True,
}
# Experts in each second layer, with what all tokens share; a rank has some rows of each of them.
EXPERTS = LLAMA | {
    "architectures": ["Qwen2MoeForCausalLM"],
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 48,
    "decoder_sparse_step": 2,
}
WIDTH = LLAMA | {"architectures": ["Olmo2ForCausalLM"]}  # norms over the heads of all ranks
GPT_OSS = LLAMA | {
    "architectures": ["GptOssForCausalLM"],
    "intermediate_size": 32,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "attention_bias": True,
}
# A latent that all ranks hold whole, heads that they divide, and experts in groups.
DEEPSEEK = LLAMA | {
    "architectures": ["DeepseekV3ForCausalLM"],
    "num_key_value_heads": 8,
    "kv_lora_rank": 24,
    "q_lora_rank": 20,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 12,
    "attention_bias": True,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
}
MODELS = {
    "deepseek": DEEPSEEK,
    "width": WIDTH,
    "gpt-oss": GPT_OSS,
    "experts": EXPERTS,
    "llama": LLAMA,
    "llama with biases": LLAMA | BIASES,
    "mistral with a window": MISTRAL,
    "gemma 3": GEMMA,
}
PROMPTS = [[5, 9, 13, 300, 40, 41, 42, 7, 30, 31], list(range(1, 38)), [299, 1]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder with a config.json for each of MODELS."""
    made = {}
    for name, config in MODELS.items():
        made[name] = tmp_path_factory.mktemp("model")
        (made[name] / "config.json").write_text(json.dumps(config))
    return made


def dummy(folder, *, blocks=64, seqs=8, swap_space=0.0):
    model = ModelConfig(model=str(folder), served_model_names=("m",), load_format="dummy", dtype="float32", seed=3)
    return engine_config(
        model,
        "torch",
        cache=CacheConfig(num_gpu_blocks_override=blocks, swap_space_gib=swap_space),
        scheduler=SchedulerConfig(max_num_seqs=seqs, max_num_batched_tokens=24),
    )


def requests():
    """Greedy ones, one that draws and one that a grammar constrains, in chunks of prompts beside decodes."""
    greedy = [request(f"greedy{i}", prompt, 12) for i, prompt in enumerate(PROMPTS)]
    drawn = request("drawn", PROMPTS[0], 12, temperature=1.5, top_k=40, seed=7, logprobs=2)
    scored = request("scored", PROMPTS[1], 2, prompt_logprobs=1, repetition_penalty=1.3)
    constrained = request("constrained", PROMPTS[2], 12, temperature=1.0, seed=5, grammar=LETTERS)
    return [*greedy, drawn, scored, constrained]


@pytest.fixture(scope="module")
def alone(pool, folders):
    """The results of one rank, by model."""
    said = {}

    def of(name):
        if name not in said:
            said[name] = pool.run(dummy(folders[name]), requests())
        return said[name]

    return of


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tensor", "pipeline"),
    [
        ("llama", 2, 1),
        ("llama", 4, 1),  # more ranks than KV heads
        ("llama with biases", 2, 1),
        ("mistral with a window", 2, 1),
        ("mistral with a window", 4, 1),
        ("gemma 3", 4, 1),
        ("llama", 1, 3),
        ("gemma 3", 1, 2),
        ("gemma 3", 2, 2),
        ("experts", 2, 1),
        ("experts", 4, 1),
        ("experts", 2, 2),
        ("width", 2, 1),
        ("width", 4, 1),
        ("gpt-oss", 2, 1),
        ("deepseek", 4, 1),
        ("deepseek", 1, 3),
        ("deepseek", 2, 2),
    ],
)
def test_tokens_are_those_of_one_rank(pool, folders, alone, name, tensor, pipeline):
    """Greedy and drawn ones; log-probabilities too, as far as a sum in another order leaves them."""
    expected = alone(name)
    got = pool.run(spread(dummy(folders[name]), tensor, pipeline), requests())
    assert {r: got[r]["tokens"] for r in got} == {r: expected[r]["tokens"] for r in expected}
    assert re.fullmatch(b"([a-z][0-9]){6}", bytes(got["constrained"]["tokens"]))
    assert len({tuple(result["tokens"]) for result in got.values()}) == len(got), "the model tells prompts apart"
    for mine, theirs in zip(got["drawn"]["logprobs"], expected["drawn"]["logprobs"], strict=True):
        assert mine[0] == theirs[0]
        assert mine[1] == pytest.approx(theirs[1], abs=1e-4)
    prompt = [entry[1] for entry in got["scored"]["prompt_logprobs"][1:]]
    assert prompt == pytest.approx([entry[1] for entry in expected["scored"]["prompt_logprobs"][1:]], abs=1e-4)


def test_ranks_that_divide_heads_over_one_latent_say_the_same(pool, folders, alone):
    expected = alone("deepseek")
    got = pool.run(spread(dummy(folders["deepseek"]), 2, 1), requests())
    assert {r: got[r]["tokens"] for r in got} == {r: expected[r]["tokens"] for r in expected}


@pytest.mark.parametrize(
    ("name", "tensor", "pipeline"),
    [
        pytest.param("experts", 2, 1),  # five of them: two, and three
        pytest.param("experts", 2, 2, marks=pytest.mark.slow),
        pytest.param("gpt-oss", 4, 1, marks=pytest.mark.slow),  # biases; an expert on each rank
        pytest.param("deepseek", 4, 1, marks=pytest.mark.slow),
    ],
)
def test_ranks_with_whole_experts_say_what_one_rank_says(pool, folders, alone, name, tensor, pipeline):
    expected = alone(name)
    got = pool.run(spread(dummy(folders[name]), tensor, pipeline, whole_experts=True), requests())
    assert {r: got[r]["tokens"] for r in got} == {r: expected[r]["tokens"] for r in expected}
    for mine, theirs in zip(got["drawn"]["logprobs"], expected["drawn"]["logprobs"], strict=True):
        assert mine[1] == pytest.approx(theirs[1], abs=1e-4)


def test_fewer_experts_than_ranks_are_refused_by_their_number(folders):
    config = spread(dummy(folders["experts"]), 8, whole_experts=True)
    files, _ = find_files(config)
    with pytest.raises(
        ConfigError, match=r"--tensor-parallel-size 8 is more than the model's 5 experts.*: 1, 2, 4 would"
    ):
        read_description(config, files)


@pytest.mark.parametrize(("tensor", "pipeline"), [(2, 1), (4, 1), (2, 2)])
def test_tokens_are_those_of_one_rank_over_symmetric_memory(pool, folders, alone, tensor, pipeline):
    """The sums are those of torch's operations, if this machine had GPUs."""
    expected = alone("llama")
    got, num_sums = pool.run_over_symmetric_memory(spread(dummy(folders["llama"]), tensor, pipeline), requests())
    assert {r: got[r]["tokens"] for r in got} == {r: expected[r]["tokens"] for r in expected}
    assert num_sums > 0


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A file of every quantized format."""
    model = write_mixed_gguf(tmp_path_factory.mktemp("mixed") / "mixed.gguf")
    return engine_config(
        ModelConfig(model=str(model), served_model_names=("m",)), "torch", cache=CacheConfig(num_gpu_blocks_override=32)
    )


@pytest.mark.parametrize(("tensor", "pipeline"), [(2, 1), (4, 1), (2, 2)])
def test_packed_weights_over_ranks_say_what_they_say_on_one(pool, mixed, tensor, pipeline):
    """Ranks also give what widened weights give. Blocks in bfloat16 round what differs in the last bit."""
    asked = [request(str(i), prompt, 3, prompt_logprobs=0) for i, prompt in enumerate(PROMPTS)]
    widened, alone = pool.run(mixed, asked), pool.run(mixed, asked, packed=True)
    spread_out = pool.run(spread(mixed, tensor, pipeline), asked, packed=True)
    for expected, *others in zip(*(said.values() for said in (widened, alone, spread_out)), strict=True):
        for got in others:
            assert got["tokens"] == expected["tokens"]
            scored, wanted = ([entry[1] for entry in said["prompt_logprobs"][1:]] for said in (got, expected))
            assert scored == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize(("name", "swap_space"), [("llama", 0.0), ("llama", 0.01), ("deepseek", 0.01)])
def test_a_preempted_sequence_goes_on_alike_on_every_rank(pool, folders, name, swap_space):
    """With blocks for less than what runs, sequences are preempted, some to host memory; the tokens stay."""
    got = pool.run(spread(dummy(folders[name], blocks=18, seqs=5, swap_space=swap_space), 2), long_ones())
    assert sum(result["num_preemptions"] for result in got.values()) > 0
    expected = pool.run(dummy(folders[name]), long_ones())
    assert {r: got[r]["tokens"] for r in got} == {r: expected[r]["tokens"] for r in expected}


def long_ones():
    return [request(f"long{i}", [i + 1, *range(40)], 40) for i in range(5)]


def test_a_request_that_can_not_run_ends_alone_on_every_rank(pool, folders):
    """The draw fails on all of them; those beside it go on."""
    bad = request("bad", [1, 2, 3], 4, allowed_token_ids=(5,), bad_words=((5,),))
    good = request("good", PROMPTS[0], 6)
    got = pool.run(spread(dummy(folders["llama"]), 2, 2), [bad, good])
    assert got["good"]["finish_reason"] == "length"
    assert len(got["good"]["tokens"]) == 6
    assert (got["bad"]["finish_reason"], got["bad"]["tokens"]) == ("error", [])
    assert "no token can be drawn" in got["bad"]["error"]


def test_a_step_that_fails_on_every_rank_ends_the_guilty_request_alone(pool, folders, alone):
    """Requests beside it are computed again, with the same results as without the failure."""
    bad = request("bad", [POISON, 1, 2], 4)
    got = pool.run(spread(dummy(folders["llama"]), 2), [bad, *requests()])
    assert got["bad"]["finish_reason"] == "error"
    assert "an internal error" in got["bad"]["error"], "what it says is for the log"
    expected = alone("llama")
    assert {r: got[r]["tokens"] for r in expected} == {r: expected[r]["tokens"] for r in expected}


def test_an_engine_beats_while_its_first_stage_waits_for_a_slow_one(pool, folders):
    """The first stage computes nothing meanwhile: the parts of the others count, as each pulse brings them."""
    config = spread(dummy(folders["llama"]), 1, 3)
    assert pool.beats_while_waiting(config, [request("a", PROMPTS[0], 3)]) > 0
