"""Models that make embeddings or scores: their size is known, and they have no KV cache."""

from __future__ import annotations

import json

import pytest
from octavo_testing.planner_cases import A100_40, CPU, SMALL, planned

from octavo_operator.api.model import Model
from octavo_operator.description.sources import describe

MINILM = {
    "architectures": ["BertModel"],
    "hidden_size": 384,
    "intermediate_size": 1536,
    "max_position_embeddings": 512,
    "num_attention_heads": 12,
    "num_hidden_layers": 6,
    "type_vocab_size": 2,
    "vocab_size": 30522,
}
PARAMETERS = 22_565_376  # its authors' 22.7 million, without the pooler, which no embedding reads


def test_on_a_cpu_it_needs_weights_and_one_steps_buffers():
    plan = planned(MINILM, accelerator=CPU, engine={"dtype": "float32"})
    assert plan.fit.state == "True"
    assert plan.fit.message == "prompts of up to 512 tokens, without a KV cache"
    assert plan.fit.budget.weights == pytest.approx(PARAMETERS * 4, rel=1e-3)  # rows are padded
    assert (plan.fit.budget.kv_per_sequence, plan.fit.budget.kv_once, plan.limits.kv_cache_bytes) == (0, 0, 0)
    assert "--kv-cache-memory-bytes" not in plan.engine.arguments
    assert plan.resources.requests["memory"] == "704Mi"


def test_on_a_gpu_a_step_takes_the_longest_prompt():
    longest = MINILM | {"max_position_embeddings": 32768, "architectures": ["XLMRobertaModel"], "pad_token_id": 1}
    plan = planned(longest, accelerator={"vendor": "nvidia", "products": [A100_40]})
    assert plan.fit.state == "True"
    assert plan.limits.max_num_batched_tokens == 32766
    assert plan.fit.message == "prompts of up to 32766 tokens, without a KV cache"


def test_a_decoder_that_sentence_transformers_has_written_is_described_as_one_that_pools(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    model = Model.model_validate({"uri": f"file://{tmp_path}"})
    assert describe(model, offline=True).spec.pooling is None
    listed = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [{"path": path, "type": f"sentence_transformers.models.{name}"} for path, name in listed]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_lasttoken": True}))
    assert describe(model, offline=True).spec.pooling.kind == "last"
    (tmp_path / "1_Pooling" / "config.json").write_text("{")
    found = describe(model, offline=True)
    assert found.spec is None
    assert "are not JSON" in found.why_unknown
