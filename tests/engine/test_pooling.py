"""Prompts that are pooled: scheduled whole, batched by tokens, cancelled, bounded, and refused where the model does not fit."""

from __future__ import annotations

import json
from array import array

import msgspec
import pytest

from octavo_engine.config import EngineConfig, ExecutorConfig, ModelConfig, SchedulerConfig
from octavo_engine.engine.engine_core import EngineCore
from octavo_engine.engine.loader import read_model, suited
from octavo_engine.errors import ConfigError, ModelLoadError
from octavo_engine.executors import create_executor
from octavo_engine.messages import EngineRequest, PoolingRequest
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.weights.source import resolve

BERT = {
    "architectures": ["BertModel"],
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 300,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


@pytest.fixture
def core(tmp_path):
    """A function that makes the core of a config with dummy weights; all are closed at the end."""
    made = []

    def start(fields, *, scheduler=SchedulerConfig(max_num_batched_tokens=64, max_num_seqs=8), **model):  # noqa: B008
        (tmp_path / "config.json").write_text(json.dumps(fields))
        config = EngineConfig(
            model=ModelConfig(
                model=str(tmp_path), served_model_names=("m",), load_format="dummy", dtype="float32", **model
            ),
            scheduler=scheduler,
            executor=ExecutorConfig(executor="native", threads=1),
        )
        files = resolve(config.model, lambda *_: None)
        spec = read_model(config, files)
        config = suited(config, spec)
        made.append(EngineCore(config, create_executor(config, spec, files), spec))
        return made[-1]

    yield start
    for each in made:
        each.close()


def prompt(name, tokens, **fields):
    return PoolingRequest(request_id=name, prompt_token_ids=list(tokens), arrival_time=0.0, **fields)


def run(core):
    """Each request's last output, and the number of tokens of each step."""
    outputs, steps = {}, []
    while core.has_work:
        for output in core.step():
            assert output.request_id not in outputs
            outputs[output.request_id] = output
        steps += core.stats().iteration_tokens
        core.check()
    return outputs, steps


def test_a_model_that_pools_has_no_kv_blocks_and_a_step_takes_its_longest_prompt(core):
    started = core(BERT)
    ready = started.ready()
    assert (ready.num_blocks, ready.kv_cache_bytes, ready.max_model_len) == ([], 0, 300)
    assert ready.pooling == msgspec.structs.replace(ready.pooling, task="embed", size=64, normalize=True)
    started.add(prompt("long", range(3, 90)))
    outputs, steps = run(started)
    assert outputs["long"].finish_reason == "stop"
    assert len(array("f", outputs["long"].pooled)) == 64
    assert steps == [87]
    assert started.stats().kv_usage == 0.0


def test_a_vector_is_the_same_alone_and_beside_others_to_the_last_bit(core):
    started = core(BERT)
    prompts = {str(n): [(7 * i + n) % 90 + 5 for i in range(n)] for n in (1, 2, 5, 15, 16, 17, 31, 100, 257)}
    alone = {}
    for name, tokens in prompts.items():
        started.add(prompt(name, tokens))
        alone |= {name: output.pooled for name, output in run(started)[0].items()}
    for name, tokens in prompts.items():
        started.add(prompt(name, tokens))
    together = {name: output.pooled for name, output in run(started)[0].items()}
    assert together == alone
    assert len(set(alone.values())) == len(alone)


def test_prompts_run_in_order_within_a_steps_tokens(core):
    """No short prompt overtakes a long one, which has a step of its own if it is longer than a step's pace."""
    started = core(BERT, scheduler=SchedulerConfig(max_num_batched_tokens=300, max_num_seqs=4, max_step_seconds=0.0))
    for name, length in (("a", 150), ("b", 100), ("c", 90), ("d", 1), ("e", 299), ("f", 2)):
        started.add(prompt(name, [5] * length))
    order, steps = [], []
    while started.has_work:
        order += [output.request_id for output in started.step()]
        steps += started.stats().iteration_tokens
    assert order == ["a", "b", "c", "d", "e", "f"]
    assert steps == [250, 91, 299, 2]


def test_priority_decides_the_order(core):
    scheduler = SchedulerConfig(max_num_batched_tokens=300, max_num_seqs=1, policy="priority")
    started = core(BERT, scheduler=scheduler)
    started.add(prompt("later", [5, 6], priority=1))
    started.add(prompt("first", [5, 6], priority=0))
    assert list(run(started)[0]) == ["first", "later"]


def test_a_second_segment_changes_the_vector(core):
    started = core(BERT)
    started.add(prompt("one", [5, 6, 7, 8]))
    started.add(prompt("two", [5, 6, 7, 8], second_segment=2))
    outputs, _ = run(started)
    assert outputs["one"].pooled != outputs["two"].pooled


def test_a_cancelled_prompt_ends_without_a_vector(core):
    started = core(BERT)
    started.add(prompt("kept", [5, 6]))
    started.add(prompt("gone", [5, 6]))
    started.abort(["gone"])
    outputs, steps = run(started)
    assert (outputs["gone"].finish_reason, outputs["gone"].pooled) == ("abort", None)
    assert outputs["kept"].pooled is not None
    assert steps == [2]


@pytest.mark.parametrize(
    ("tokens", "why"),
    [
        ([], "the prompt is empty"),
        ([5] * 301, "the prompt has 301 tokens and the model's context 300: shorten the prompt"),
        ([5, 100], "the prompt has token ids outside of this model's vocabulary, which has 100"),
    ],
)
def test_a_wrong_prompt_is_refused(core, tokens, why):
    started = core(BERT)
    started.add(prompt("wrong", tokens))
    output = run(started)[0]["wrong"]
    assert output.refused
    assert why in output.error


def test_a_model_that_pools_refuses_to_generate_and_the_reverse(core):
    pools, generates = core(BERT), core(LLAMA)
    pools.add(
        EngineRequest(request_id="g", prompt_token_ids=[5], sampling=SamplingParams(max_tokens=1), arrival_time=0.0)
    )
    generates.add(prompt("p", [5]))
    for output, why in (
        (run(pools)[0]["g"], "this model makes embeddings or scores, and generates nothing: "),
        (run(generates)[0]["p"], "this model generates, and makes no embeddings or scores: "),
    ):
        assert output.refused
        assert output.error.startswith(why)


def test_a_failed_step_ends_the_guilty_prompt_alone(core, monkeypatch):
    started = core(BERT)
    executor = started._executor
    submit = executor.submit

    def fails(step):
        if "guilty" in step.num_scheduled_tokens:
            raise RuntimeError("no")
        return submit(step)

    monkeypatch.setattr(executor, "submit", fails)
    for name in ("a", "guilty", "b"):
        started.add(prompt(name, [5, 6, 7]))
    outputs, _ = run(started)
    assert outputs["guilty"].finish_reason == "error"
    assert outputs["a"].pooled == outputs["b"].pooled
    assert outputs["a"].pooled is not None


def test_a_decoder_pools_where_the_user_says_so(core):
    started = core(LLAMA, runner="pooling")
    assert started.ready().pooling.task == "embed"
    started.add(prompt("p", [5, 6, 7]))
    assert run(started)[0]["p"].pooled is not None


@pytest.mark.parametrize(
    ("fields", "model", "why"),
    [
        (BERT, {"runner": "generate"}, "BertModel has no head that generates"),
        (BERT, {"convert": "classify"}, "BertModel has no head of scores"),
        (LLAMA, {"convert": "classify"}, "name the tokens whose logits are the scores, with --hf-overrides"),
        (BERT | {"position_embedding_type": "relative_key"}, {}, "supported is 'absolute'"),
    ],
)
def test_what_a_model_is_not_made_for_ends_the_start(core, fields, model, why):
    with pytest.raises((ConfigError, ModelLoadError), match=why):
        core(fields, **model)
