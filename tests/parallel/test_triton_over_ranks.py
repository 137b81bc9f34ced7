"""Ranks that run Triton's kernels say what one rank says by plain operations, whether or not they divide the vocabulary.

A kernel that reads a strided tensor as if it were dense shows here alone: the plain operations honour strides.
"""

from __future__ import annotations

import json

import pytest
from octavo_testing.engine_runs import engine_config, request
from rank_pool import spread

from octavo_engine.config import CacheConfig, ModelConfig, SchedulerConfig

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 96,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 12,
    "num_key_value_heads": 6,
    "max_position_embeddings": 128,
    "torch_dtype": "float32",
}


def requests(vocab):
    """Several rows of one step: the first is right even where a padded view is read as if it were dense."""
    prompts = [[5, 9, vocab - 1, 40], [vocab // 2, 3], [vocab - 2, vocab // 3, 7]]
    if vocab > 1000:  # interpreted kernels take their time
        return [request(f"greedy{i}", prompt, 1) for i, prompt in enumerate(prompts)]
    greedy = [request(f"greedy{i}", prompt, 2) for i, prompt in enumerate(prompts)]
    filtered = request("filtered", prompts[0], 1, temperature=1.2, top_k=20, top_p=0.9, seed=7, logprobs=2)
    barred = request("barred", prompts[1], 1, repetition_penalty=1.3, logit_bias={vocab - 1: 2.0}, bad_words=((9,),))
    return [*greedy, filtered, barred]


@pytest.mark.slow
@pytest.mark.parametrize("vocab", [301, 50_257, 32_001])
def test_triton_over_ranks_draws_the_tokens_of_one_rank(pool, tmp_path, vocab):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"vocab_size": vocab}))
    config = engine_config(
        ModelConfig(model=str(tmp_path), served_model_names=("m",), load_format="dummy", dtype="float32", seed=3),
        "torch",
        cache=CacheConfig(num_gpu_blocks_override=32),
        scheduler=SchedulerConfig(max_num_seqs=8, max_num_batched_tokens=24),
    )
    expected = pool.run(config, requests(vocab))
    assert len({tuple(result["tokens"]) for result in expected.values()}) > 1, "the model tells prompts apart"
    for ranks in (2, 3):
        got = pool.run(spread(config, ranks), requests(vocab), triton=True)
        assert {r: got[r]["tokens"] for r in got} == {r: expected[r]["tokens"] for r in expected}
        if "filtered" in got:
            for mine, theirs in zip(got["filtered"]["logprobs"], expected["filtered"]["logprobs"], strict=True):
                assert mine[1:3] == pytest.approx(theirs[1:3], abs=1e-4)
