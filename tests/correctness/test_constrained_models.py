"""A grammar's masks over a model's logits: the native executor and the torch executor draw what the grammar allows."""

from __future__ import annotations

import re

import pytest
from octavo_testing.engine_runs import LETTERS, engine_config, request, run_engine
from octavo_testing.tiny_models import make

from octavo_engine.config import ModelConfig, SchedulerConfig


@pytest.mark.parametrize("executor", ["native", "torch"])
def test_constrained_answers_match_and_free_ones_stay(executor, tmp_path):
    """In the same steps, greedy and drawn, with log-probabilities and with lists of their own."""
    make("llama", tmp_path)
    model = ModelConfig(model=str(tmp_path), served_model_names=("tiny",), dtype="float32")
    config = engine_config(model, executor, scheduler=SchedulerConfig(max_num_seqs=6, max_num_batched_tokens=32))
    free = [request(f"free{i}", [3 + i, 5, 7], 12) for i in range(3)]
    digits = tuple(range(ord("0"), ord("9") + 1))
    constrained = [
        request("greedy", [9, 4], 20, grammar=LETTERS),
        request("drawn", [9, 4], 20, grammar=LETTERS, temperature=1.0, seed=3, logprobs=2),
        request("listed", [9, 4], 20, grammar=LETTERS, allowed_token_ids=(*digits, ord("q"))),
    ]
    alone = run_engine(config, free)
    together = run_engine(config, [*free, *constrained])
    for r in free:
        assert together[r.request_id].tokens == alone[r.request_id].tokens
    for name in ("greedy", "drawn", "listed"):
        assert re.fullmatch(b"([a-z][0-9]){10}", bytes(together[name].tokens)), together[name]
    assert set(together["listed"].tokens) <= {*digits, ord("q")}
    assert [entry.token_id for entry in together["drawn"].logprobs] == together["drawn"].tokens
