"""Compares what an engine computes with a reference's logits, over prompts of odd lengths.

All prompts run together, longer ones in chunks beside the others' decodes, past the ends of windows; then one comes again
and finds its beginning in the prefix cache.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from octavo_engine.config import EngineConfig, ModelConfig, ModelFiles, SchedulerConfig
from octavo_engine.engine.engine_core import EngineCore
from octavo_engine.errors import ExecutorError
from octavo_engine.executors import create_executor
from octavo_engine.executors.executor import Executor as RunningExecutor
from octavo_engine.executors.unsupported import refuse_unsupported
from octavo_engine.messages import EngineRequest, TokenLogprob
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve
from octavo_models.features import Executor, unsupported
from octavo_models.spec import ModelSpec
from octavo_testing.engine_runs import Finished, engine_config, generate, request, running_core
from octavo_testing.tiny_models import Logits, Tiny

TOLERANCE = 1e-4
"""The error of a log-probability in float32 that is allowed, in units of its row's spread: from the mean of the logits to the largest, or 1."""
BFLOAT16_FACTOR = 2.0
"""The factor by which an engine in bfloat16 may be further from float32 than the reference in bfloat16 is."""
TOP = 3
Create = Callable[[EngineConfig, ModelSpec, ModelFiles], RunningExecutor]


@dataclass(frozen=True)
class Lengths:
    """Tokens of the prompts, and those that follow each. Not `whole`: the latter alone are scored, and no prompt returns."""

    prompts: tuple[int, ...] = (1, 16, 37, 70)
    new_tokens: int = 12
    whole: bool = True


FULL = Lengths()
SHORT = Lengths((3, 19), 2, whole=False)  # for interpreted kernels: beyond a block and most windows


def requests_of(vocabulary: int, lengths: Lengths = FULL, top: int = TOP) -> list[EngineRequest]:
    """Greedy requests that return the `top` log-probabilities of each position."""
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, vocabulary, (n,), generator=generator).tolist() for n in lengths.prompts]
    return [
        request(str(i), prompt, lengths.new_tokens, prompt_logprobs=top if lengths.whole else None, logprobs=top)
        for i, prompt in enumerate(prompts)
    ]


def check_logits(
    folder: Path,
    executor: Executor,
    logits: Logits,
    vocabulary: int,
    *,
    lengths: Lengths = FULL,
    create: Create = create_executor,
) -> None:
    """Assert that the model in `folder` gives the reference's logits in float32, and the refusal of what it lacks."""
    model_config = ModelConfig(model=str(folder), served_model_names=("tiny",), dtype="float32")
    files = resolve(model_config, lambda *_: None)
    spec = read_spec(model_config, files)
    if not _supported(spec, executor):
        return
    asked = requests_of(vocabulary, lengths)
    with running_core(config_of(model_config, executor), files, spec, create) as core:
        results = generate(core, asked)
        check_results(asked, results, logits)
        if lengths.whole:
            _check_again(core, asked[-1], results, logits)


def _supported(spec: ModelSpec, executor: Executor) -> bool:
    """False once it is asserted that the executor refuses the model."""
    lacking = unsupported(spec, executor)
    if lacking is not None:
        with pytest.raises(ExecutorError, match=re.escape(lacking)):
            refuse_unsupported(spec, executor)
    return lacking is None


def _check_again(core: EngineCore, asked: EngineRequest, results: Mapping[str, Finished], logits: Logits) -> None:
    """Assert that a prompt that goes on with what was generated finds all whole blocks, and has the right logits."""
    seen = [*asked.prompt_token_ids, *results[asked.request_id].tokens]
    again = request("again", seen, asked.sampling.max_tokens, logprobs=TOP)
    result = generate(core, [again])["again"]
    assert result.num_cached_tokens == len(seen) // 16 * 16
    check_result(again, result, logits)


def config_of(model: ModelConfig, executor: str) -> EngineConfig:
    """Steps that cut the longest prompt."""
    return engine_config(model, executor, scheduler=SchedulerConfig(max_num_batched_tokens=48, max_num_seqs=8))


def check_results(asked: Sequence[EngineRequest], results: Mapping[str, Finished], logits: Logits) -> None:
    """Assert that each result of `requests_of` has the reference's log-probabilities and greedy tokens."""
    for each in asked:
        check_result(each, results[each.request_id], logits)


def check_result(asked: EngineRequest, result: Finished, logits: Logits) -> None:
    """Check one request as `check_results` does."""
    got = scored(result)
    raw = logits([*asked.prompt_token_ids, *result.tokens])
    rows = raw[-len(got) - 1 : -1].log_softmax(-1).detach()
    assert len(got) >= asked.sampling.max_tokens
    spreads = (rows.amax(-1) - rows.mean(-1)).clamp(min=1.0)
    for row, spread, entry in zip(rows, spreads, got, strict=True):
        tolerance = TOLERANCE * float(spread)
        assert entry.logprob == pytest.approx(float(row[entry.token_id]), abs=tolerance)
        assert [logprob for _, logprob in entry.top] == pytest.approx(
            row.topk(len(entry.top)).values.tolist(), abs=tolerance
        )
    for row, token in zip(rows[-len(result.tokens) :], result.tokens, strict=True):
        assert row[token] >= row.max() - TOLERANCE


def scored(result: Finished) -> list[TokenLogprob]:
    """The entries of all positions that have one: of the prompt, where that was asked for, and of the new tokens."""
    assert result.error is None
    entries = [*(result.prompt_logprobs or [None])[1:], *result.logprobs]
    assert all(entry is not None for entry in entries)
    return [entry for entry in entries if entry is not None]


def check_bfloat16(tiny: Tiny, executor: Executor) -> None:
    """Assert that an engine in bfloat16 is at most twice as far from the reference's float32 as the reference in bfloat16."""
    model = ModelConfig(model=str(tiny.folder), served_model_names=("tiny",), dtype="bfloat16")
    if not _supported(read_spec(model, resolve(model, lambda *_: None)), executor):
        return
    ours, theirs = distances(tiny, executor)
    assert ours <= BFLOAT16_FACTOR * theirs


def distances(tiny: Tiny, executor: Executor) -> tuple[float, float]:
    """Distances of an engine and of the reference, both in bfloat16, from the reference in float32.

    Of each position the root mean square over the most likely tokens' log-probabilities; of these the median, for a
    token that goes to another expert is nowhere near.
    """
    assert tiny.logits_bfloat16 is not None
    model = ModelConfig(model=str(tiny.folder), served_model_names=("tiny",), dtype="bfloat16")
    asked = requests_of(tiny.vocabulary, top=64)
    with running_core(config_of(model, executor)) as core:
        results = generate(core, asked)
    ours, theirs = [], []
    for each in asked:
        result = results[each.request_id]
        got = scored(result)
        tokens = [*each.prompt_token_ids, *result.tokens]
        wide, narrow = (
            logits(tokens)[-len(got) - 1 : -1].log_softmax(-1) for logits in (tiny.logits, tiny.logits_bfloat16)
        )
        ids = torch.tensor([[token for token, _ in entry.top[:64]] for entry in got])
        found = torch.tensor([[logprob for _, logprob in entry.top[:64]] for entry in got])
        expected = wide.gather(-1, ids)
        ours += (found - expected).square().mean(-1).sqrt().tolist()
        theirs += (narrow.gather(-1, ids) - expected).square().mean(-1).sqrt().tolist()
    return float(torch.tensor(ours).median()), float(torch.tensor(theirs).median())
