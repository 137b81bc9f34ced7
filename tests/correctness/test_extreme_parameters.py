"""Numeric parameters at their extremes, alone and in pairs: refused by name, or drawn alike by every sampler.

Never a crash, a token that is none, a log-probability that is none, or another stream's token changed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from octavo_testing.engine_runs import Finished, engine_config, generate, interpreted, request, running_core
from octavo_testing.extreme_parameters import (
    PARAMETERS,
    PROMPT,
    VOCABULARY,
    Case,
    outcome,
    pairs,
    server_context,
    shown,
    singles,
)
from octavo_testing.properties import accepting, tried
from octavo_testing.tiny_models import make

from octavo_engine.config import CacheConfig, ModelConfig
from octavo_engine.engine.engine_core import EngineCore
from octavo_engine.errors import RequestError
from octavo_engine.executors.native import _native
from octavo_engine.executors.native.executor import native_sampling
from octavo_engine.executors.torch.input_batch import RequestState
from octavo_engine.executors.torch.penalty_counts import PenaltyCounts
from octavo_engine.executors.torch.sampler import Extras, Sampler, SamplingTable
from octavo_engine.kernels.backends import triton_operations_on
from octavo_engine.kernels.operations import KnownTokens, Operations, Penalties, TokenCounts
from octavo_engine.kernels.reference_operations import ReferenceOperations
from octavo_engine.kernels.reference_sampling import Filters, SamplingBatch, process_logits, sample
from octavo_engine.messages import EngineRequest
from octavo_engine.sampling_params import SamplingParams

Taken = tuple[Case, SamplingParams]
CPU = torch.device("cpu")
OUTPUT = [5, 9, 9]
TOGETHER = 100  # requests of a batch
INTERPRETED = 16  # cases whose whole engine is interpreted
SLOW, SLOWEST = 5, 40  # of the pairs, one in so many is run by plain torch, and by interpreted kernels


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return server_context(tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def taken(context):
    """Every case that is not refused, and its parameters: alone and in pairs."""
    outcomes = ((case, outcome(context, case)) for case in (*singles(), *pairs(context)))
    return [(case, params) for case, params in outcomes if isinstance(params, SamplingParams)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make("llama", folder)
    return ModelConfig(model=str(folder), served_model_names=("tiny",), dtype="float32", max_model_len=64)


def thinned(taken: list[Taken], every: int) -> list[Taken]:
    """All that set one parameter, and one in `every` of the others."""
    return [(case, params) for i, (case, params) in enumerate(taken) if len(case) == 1 or i % every == 0]


def core_over(model: ModelConfig, executor: str):
    create = {"create": interpreted} if executor == "triton" else {}
    config = engine_config(model, executor, cache=CacheConfig(kv_cache_memory_bytes=16 << 20))
    # The model is too small for a second thread, which a busy machine would make it wait for.
    one_thread = msgspec.structs.replace(config.executor, threads=1)
    return running_core(msgspec.structs.replace(config, executor=one_thread), **create)


def test_a_parameter_at_an_extreme_is_taken_or_refused_by_its_name(context):
    """Whatever JSON can spell, numbers of 5,000 digits and what is no number included."""
    refused = 0
    for case in singles():
        (name,) = case
        found = outcome(context, case)
        if isinstance(found, RequestError):
            refused += 1
            assert found.status == 400, shown(case)
            assert found.param is None or found.param.startswith(name), shown(case)
            assert len(str(found)) < 1000, shown(case)
        else:
            floats = (found.temperature, found.top_p, found.min_p, found.repetition_penalty)
            assert all(map(math.isfinite, (*floats, *found.logit_bias.values()))), shown(case)
    assert refused > len(PARAMETERS)


@pytest.mark.parametrize("executor", ["native", "torch", pytest.param("triton", marks=pytest.mark.slow)])
def test_requests_at_extremes_end_well_and_their_neighbour_is_undisturbed(model, taken, executor):
    """Through the engine core, a hundred at a time."""
    cases = thinned(taken, 1 if executor == "native" else SLOW)
    if executor == "triton":
        cases = cases[:: len(cases) // INTERPRETED]
    with core_over(model, executor) as core:
        undisturbed = generate(core, [neighbour()])["neighbour"].tokens
        for first in range(0, len(cases), TOGETHER):
            batch = cases[first : first + TOGETHER]
            results = run_beside_neighbour(core, [params for _, params in batch], undisturbed)
            for (case, params), result in zip(batch, results, strict=True):
                check(case, params, result)


def test_a_request_at_an_extreme_ends_well_when_it_is_alone(model, taken):
    """The native executor draws a single row outside of its threads, where denormal numbers are not zero."""
    with core_over(model, "native") as core:
        for case, params in taken:
            if len(case) == 1 or "temperature" in case:
                check(case, params, generate(core, [of(0, params)])["0"])


def neighbour() -> EngineRequest:
    return request("neighbour", [5, 6, 7], 8, temperature=0.8, top_p=0.9, seed=3)


def of(number: int, params: SamplingParams) -> EngineRequest:
    return EngineRequest(request_id=str(number), prompt_token_ids=PROMPT, sampling=params, arrival_time=0.0)


def run_beside_neighbour(core: EngineCore, sampled: Iterable[SamplingParams], undisturbed: list[int]) -> list[Finished]:
    results = generate(core, [neighbour(), *(of(i, params) for i, params in enumerate(sampled))])
    beside = results.pop("neighbour")
    assert (beside.tokens, beside.error) == (undisturbed, None)
    return list(results.values())


def check(case: Case, params: SamplingParams, result: Finished) -> None:
    """Assert that a request ended as its parameters say, with valid tokens and log-probabilities."""
    if bans_everything(params):
        assert (result.finish_reason, result.tokens) == ("error", []), shown(case)
        assert "no token can be drawn" in (result.error or ""), shown(case)
        return
    assert result.error is None, f"{shown(case)}: {result.error}"
    assert result.finish_reason in ("stop", "length"), shown(case)
    assert all(0 <= token < VOCABULARY for token in result.tokens), shown(case)
    assert params.min_tokens <= len(result.tokens) <= params.max_tokens, shown(case)
    assert not params.allowed_token_ids or set(result.tokens) <= set(params.allowed_token_ids), shown(case)
    scored = [*result.logprobs, *filter(None, result.prompt_logprobs or ())]
    assert all(entry.logprob <= 0.0 for entry in scored), shown(case)


def bans_everything(params: SamplingParams) -> bool:
    allowed = set(params.allowed_token_ids) or set(range(VOCABULARY))
    banned = {word[0] for word in params.bad_words if len(word) == 1}
    if params.min_tokens:
        banned |= {*params.stop_token_ids, *params.eos_token_ids}
    return allowed <= banned


@pytest.mark.slow
def test_the_three_samplers_draw_alike_at_every_extreme(taken):
    """The same logits give the same tokens, all as `reference_sampling` says."""
    cases = [(case, params) for case, params in thinned(taken, SLOW) if not bans_everything(params)]
    logits = torch.randn(len(cases), VOCABULARY, generator=torch.Generator().manual_seed(5)) * 3
    logits[:, PROMPT] += 4  # so that penalties matter
    expected = [drawn_by_twin(row, params) for row, (_, params) in zip(logits, cases, strict=True)]
    native = [drawn_by_native(row, params) for row, (_, params) in zip(logits, cases, strict=True)]
    assert differing(cases, native, expected) == []
    assert differing(cases, drawn_by_torch(ReferenceOperations(), logits, cases), expected) == []
    few = [i for i, (case, _) in enumerate(cases) if len(case) == 1 or i % (SLOWEST // SLOW) == 0]
    some = [cases[i] for i in few]
    drawn = drawn_by_torch(triton_operations_on(CPU), logits[few], some)
    assert differing(some, drawn, [expected[i] for i in few]) == []


def differing(cases: Sequence[Taken], found: Sequence[int], expected: Sequence[int]) -> list[str]:
    compared = zip(cases, found, expected, strict=True)
    return [f"{shown(case)}: {token}, not {wanted}" for (case, _), token, wanted in compared if token != wanted]


def drawn_by_twin(logits: torch.Tensor, params: SamplingParams) -> int:
    return sample(process_logits(logits, PROMPT, OUTPUT, params), params, len(PROMPT) + len(OUTPUT))


def drawn_by_native(logits: torch.Tensor, params: SamplingParams) -> int:
    return _native.draw(_native.best_isa(), logits.numpy(), PROMPT, OUTPUT, native_sampling(_native, params), None)[0]


def drawn_by_torch(ops: Operations, logits: torch.Tensor, cases: Sequence[Taken]) -> list[int]:
    """The torch executor's own sampler, over these operations."""
    n = len(cases)
    known = [*PROMPT, *OUTPUT]
    states = [RequestState(str(i), known[:], len(PROMPT), p, [], 0, row=i) for i, (_, p) in enumerate(cases)]
    table = SamplingTable(n, CPU)
    table.update(states)
    token_ids = torch.zeros(n, 64, dtype=torch.int32)
    token_ids[:, : len(known)] = torch.tensor(known, dtype=torch.int32)
    lengths = [len(known)] * n
    extras = Extras.of(states, lengths, VOCABULARY, CPU)
    rows, seq_lens = torch.arange(n, dtype=torch.int32), torch.tensor(lengths, dtype=torch.int32)
    sampler = Sampler(ops, table, token_ids, lambda hidden: hidden)
    asking = extras is not None and extras.penalized
    counts = PenaltyCounts(n, CPU).take(states, lengths, VOCABULARY) if asking else None
    return sampler.draw(logits.clone(), rows, seq_lens, extras, counts).tolist()


@pytest.mark.parametrize("temperature", [5e-324, 1e-45, 1e-39, 1.2e-38, 1e-20, 9.9e-6])
def test_a_tiny_temperature_is_greedy(temperature):
    """Decided where the parameters are made, so for every executor and however they arrived."""
    assert SamplingParams(max_tokens=1, temperature=temperature).temperature == 0.0


@pytest.mark.sample(temperature=[1e-45, 1e-5])
@pytest.mark.parametrize("temperature", [1e-45, 1e-39, 1.2e-38, 1e-20, 1e-5])
@pytest.mark.parametrize("filters", [{}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.5}])
def test_no_sampler_needs_a_temperature_to_be_sensible(temperature, filters):
    """At a tiny one that reaches a sampler the best token is drawn, or one of those that tie for it."""
    rows = 6
    logits = torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(2)) * 10
    logits[1, [40, 90]] = 60.0
    best = [{int(row.argmax())} for row in logits[:1]] + [{40, 90}] + [{int(row.argmax())} for row in logits[2:]]
    sampling = native_sampling(_native, SamplingParams(max_tokens=1, **filters))
    sampling.temperature = temperature
    batch = SamplingBatch.of([Filters(temperature, **filters)] * rows, [len(PROMPT)] * rows)
    for drawn in (
        [_native.draw(_native.best_isa(), row.numpy(), PROMPT, [], sampling, None)[0] for row in logits],
        ReferenceOperations().sample(logits, batch).tolist(),
        triton_operations_on(CPU).sample(logits, batch).tolist(),
    ):
        assert all(token in wanted for token, wanted in zip(drawn, best, strict=True)), drawn


@pytest.mark.parametrize("penalty", [1e-45, 1e-39, 1e-30, 1e30, 3e38])
def test_a_penalty_never_makes_a_logit_infinite(penalty):
    """A penalty lifts no ban either, and hides no logit that is no number."""
    logits = torch.tensor([[20.0, -20.0, 0.0, -math.inf, math.nan, math.inf, 3.0]])
    known = KnownTokens(torch.arange(6, dtype=torch.int32)[None], *(torch.tensor([n]).int() for n in (0, 6, 5)))
    ones = torch.ones(1)
    for ops in (ReferenceOperations(), triton_operations_on(CPU)):
        found = logits.clone()
        counts = TokenCounts(torch.zeros(1, 7, dtype=torch.int32), *torch.zeros(2, 1, dtype=torch.int32))
        ops.penalize(found, Penalties(ones * penalty, ones * 2, ones * -2), known, counts)
        assert found[0, :3].isfinite().all()
        assert found[0, 3:6].tolist() == pytest.approx([-math.inf, math.nan, math.inf], nan_ok=True)
        assert found[0, 6] == 3.0


EXTREME_FLOATS = st.floats(0, 1e-4) | st.floats(0, 100) | st.sampled_from([0.0, 5e-324, 1e-45, 1e-39, 1.2e-38, 100.0])
PENALTIES = st.floats(-2, 2) | st.sampled_from([-2.0, 2.0, 1e-45])
TOKENS = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=4)
DRAWN_PARAMETERS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": EXTREME_FLOATS,
        "repetition_penalty": EXTREME_FLOATS,
        "top_p": st.floats(0, 1) | st.sampled_from([1e-45, 1e-39, 0.99999999]),
        "min_p": st.floats(0, 1) | st.sampled_from([1e-45, 1e-39, 1.0]),
        "top_k": st.integers(-1, 2**70),
        "seed": st.integers(-(2**63), 2**64 - 1),
        "presence_penalty": PENALTIES,
        "frequency_penalty": PENALTIES,
        "logit_bias": st.dictionaries(st.integers(0, VOCABULARY - 1).map(str), st.floats(allow_nan=False), max_size=4),
        "allowed_token_ids": TOKENS,
        "stop_token_ids": TOKENS,
        "bad_words": st.lists(st.text("abcdef ", min_size=1, max_size=2).map("g".__add__), max_size=3),
        "min_tokens": st.integers(0, 3),
        "logprobs": st.integers(0, 20),
        "prompt_logprobs": st.integers(0, 20),
    },
)


@pytest.fixture(scope="module")
def cores(model):
    """Both executors, each with what its neighbour draws alone."""
    with core_over(model, "native") as native, core_over(model, "torch") as plain:
        yield [(core, generate(core, [neighbour()])["neighbour"].tokens) for core in (native, plain)]


@accepting(0.01)
@tried(60)
@given(drawn=st.lists(DRAWN_PARAMETERS, min_size=1, max_size=6))
def test_any_parameters_are_refused_or_end_well_and_alike_on_both_executors(context, cores, drawn):
    cases = [{name: json.dumps(value) for name, value in fields.items()} for fields in drawn]
    outcomes = [(case, outcome(context, case)) for case in cases]
    assert all(found.status == 400 for _, found in outcomes if isinstance(found, RequestError))
    taken = [(case, params) for case, params in outcomes if isinstance(params, SamplingParams)]
    by_executor = [run_beside_neighbour(core, [p for _, p in taken], undisturbed) for core, undisturbed in cores]
    for (case, params), native, plain in zip(taken, *by_executor, strict=True):
        check(case, params, native)
        check(case, params, plain)
        assert native.error == plain.error, shown(case)
    return bool(taken)
