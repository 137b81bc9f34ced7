"""The native executor as the core sees it: its twin's logits, requests that come, go, resume and fail alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from instruction_sets import every_isa, name_of
from native_executors import GREEDY, Sequences, config_of, files_of, request, start, tokens_of

from octavo_engine.core.outputs import ContinuedRequest, KVOps, NewRequest, SchedulerOutput
from octavo_engine.executors.native import executor as native_executor
from octavo_engine.executors.native.executor import NativeExecutor
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.weights.load import load_weights


def mixed_run(sequences: Sequences) -> None:
    """Two prompts in chunks, a third that joins, then decodes of all."""
    a, b, c = tokens_of(61, 1), tokens_of(33, 2), tokens_of(1, 3)
    sequences.step({"a": 40, "b": 33}, {**request("a", a), **request("b", b)})
    sequences.step({"a": 21, "b": 1, "c": 1}, request("c", c))
    for _ in range(20):
        sequences.step({"b": 1, "c": 1, "a": 1})


def test_tokens_equal_the_torch_executors(spec, executor, tmp_path):
    """The same weights, blocks and steps give the same tokens through both executors."""
    from octavo_engine.executors.torch.executor import TorchExecutor

    runs = []
    for kind in (executor, start(TorchExecutor, spec, tmp_path)):
        sequences = Sequences(kind, len(spec.kv_layout(16, "f32").groups))
        mixed_run(sequences)
        runs.append(sequences.known)
    assert runs[0] == runs[1]


def test_threads_do_not_change_logits(spec, tmp_path):
    """One thread and two give the same logits, to the last bit."""
    runs = []
    for threads in (1, 2):
        sequences = Sequences(
            start(NativeExecutor, spec, tmp_path, threads=threads), len(spec.kv_layout(16, "f32").groups)
        )
        mixed_run(sequences)
        runs.append(sequences)
    assert runs[0].known == runs[1].known
    for one, two in zip(runs[0].logits, runs[1].logits, strict=True):
        np.testing.assert_array_equal(one, two)


def test_swapped_blocks_come_back_as_they_were(spec, tmp_path):
    """Out to host memory, overwritten by another request, in again to other blocks: the next logits differ in no bit."""
    groups = len(spec.kv_layout(16, "f32").groups)

    def everywhere(*blocks: int) -> tuple[list[int], ...]:
        return tuple(list(blocks) for _ in range(groups))

    def moves(*pairs: tuple[int, int]) -> tuple[tuple[int, int, int], ...]:
        return tuple((group, *pair) for group in range(groups) for pair in pairs)

    logits = []
    for swapped in (False, True):
        executor = NativeExecutor(config_of(), spec, files_of(tmp_path))
        executor.load()
        executor.init_kv((64,) * groups, (8,) * groups)
        sequences = Sequences(executor, groups)
        first = NewRequest("a", tokens_of(50, 1), GREEDY, everywhere(1, 2, 3, 4), 0)
        sequences.run(SchedulerOutput(1, (first,), (), {"a": 50}, {"a": 1}, frozenset({"a"})))
        if swapped:
            out = KVOps(swap_out=moves((1, 7), (2, 1), (3, 3), (4, 2)))
            other = NewRequest("b", tokens_of(60, 2), GREEDY, everywhere(1, 2, 3, 4), 0)
            sequences.run(SchedulerOutput(2, (other,), (), {"b": 60}, {"b": 1}, frozenset({"b"}), kv_ops=out))
            back = ContinuedRequest("a", everywhere(9, 5, 8, 6), 50, resumed=True)
            kv_ops = KVOps(swap_in=moves((7, 9), (1, 5), (3, 8), (2, 6)))
        else:
            back, kv_ops = ContinuedRequest("a", everywhere(), 50), KVOps()
        sequences.run(SchedulerOutput(3, (), (back,), {"a": 1}, {"a": 1}, frozenset({"a"}), kv_ops=kv_ops))
        logits.append(sequences.logits[-1])
        executor.close()
    np.testing.assert_array_equal(logits[0], logits[1])


@pytest.mark.parametrize("ops", [{"swap_out": ((0, 64, 1),)}, {"swap_out": ((0, 1, 8),)}, {"swap_in": ((0, 0, 1),)}])
def test_moves_of_blocks_that_do_not_exist_are_refused(spec, executor, ops):
    """Beyond the pool, beyond the swap space, or the null block: an error, and nothing is written anywhere."""
    with pytest.raises(IndexError, match="outside of"):
        executor.move_blocks(KVOps(**ops))


def test_a_seed_draws_the_same_tokens_in_any_company(spec, tmp_path):
    """Alone in one chunk, or with strangers and in pieces: a request's tokens are its own."""
    groups = len(spec.kv_layout(16, "f32").groups)
    sampling = SamplingParams(max_tokens=64, temperature=1.0, top_p=0.95, seed=77)
    prompt = tokens_of(40, 5)
    alone = Sequences(start(NativeExecutor, spec, tmp_path), groups)
    alone.step({"x": 40}, request("x", prompt, sampling))
    for _ in range(15):
        alone.step({"x": 1})
    crowd = Sequences(start(NativeExecutor, spec, tmp_path), groups, seed=9)
    strangers = {**request("s", tokens_of(20, 6)), **request("t", tokens_of(7, 8))}
    crowd.step({"s": 20, "x": 13, "t": 7}, {**strangers, **request("x", prompt, sampling)})
    crowd.step({"x": 27, "s": 1})
    for _ in range(15):
        crowd.step({"t": 1, "x": 1, "s": 1})
    assert alone.known["x"] == crowd.known["x"]


def test_a_resumed_request_goes_on_as_if_nothing_had_happened(spec, executor):
    """After its blocks were taken away: the known tokens are computed again into others, and the next is the same."""
    groups = len(spec.kv_layout(16, "f32").groups)
    sequences = Sequences(executor, groups)
    sequences.step({"a": 30}, request("a", tokens_of(30, 1)))
    for _ in range(4):
        sequences.step({"a": 1})
    expected = sequences.known["a"][-1]
    resumed = ContinuedRequest("a", tuple([9, 5, 7] for _ in range(groups)), 0, resumed=True)
    out = sequences.run(
        SchedulerOutput(90, (), (resumed,), {"a": 34}, {"a": 1}, frozenset({"a"})),
    )
    assert out.tokens == {"a": [expected]}
    fresh = request("b", sequences.known["a"][:30], output_token_ids=sequences.known["a"][30:34])
    assert sequences.step({"b": 34}, fresh, finished_ids=("a",)).tokens == {"b": [expected]}


def test_requests_fail_alone(spec, executor):
    """A token outside the vocabulary, a block outside the pool, work without blocks: an error for that request only."""
    groups = len(spec.kv_layout(16, "f32").groups)
    good = NewRequest("good", [1, 2, 3], GREEDY, tuple([1] for _ in range(groups)), 0)
    bad = [
        NewRequest("token", [1, 211], GREEDY, tuple([2] for _ in range(groups)), 0),
        NewRequest("negative", [-1], GREEDY, tuple([2] for _ in range(groups)), 0),
        NewRequest("block", [1, 2], GREEDY, tuple([64] for _ in range(groups)), 0),
        NewRequest("null block", [1, 2], GREEDY, tuple([0] for _ in range(groups)), 0),
        NewRequest("no blocks", [1, 2], GREEDY, tuple([] for _ in range(groups)), 0),
        NewRequest("bias", [1], SamplingParams(max_tokens=1, logit_bias={999: 1.0}), tuple([3] for _ in range(groups)), 0),
    ]  # fmt: skip
    counts = {r.request_id: len(r.token_ids) for r in (*bad, good)}
    sequences = Sequences(executor, groups)
    scheduled = SchedulerOutput(1, (*bad, good), (), counts, dict.fromkeys(counts, 1), frozenset(counts))
    out = sequences.run(scheduled)
    assert list(out.tokens) == ["good"]
    assert set(out.errors) == {r.request_id for r in bad}
    assert out.errors["token"] == "prompt: token id 211 is outside the model's vocabulary of 211"
    assert "block 64, outside 1 to 63" in out.errors["block"]
    again = SchedulerOutput(
        2,
        (),
        (ContinuedRequest("token", ([],) * groups, 0), ContinuedRequest("good", ([],) * groups, 3)),
        {"token": 1, "good": 1},
        {"token": 1, "good": 1},
        frozenset({"token", "good"}),
    )
    out = sequences.run(again)
    assert list(out.tokens) == ["good"]
    assert list(out.errors) == ["token"]


def test_more_tokens_than_a_step_holds_are_an_error(executor, spec):
    """--max-num-batched-tokens bounds a step; what lies beyond it fails with the flag's name."""
    out = Sequences(executor, len(spec.kv_layout(16, "f32").groups)).step({"a": 257}, request("a", tokens_of(257, 1)))
    assert "--max-num-batched-tokens" in out.errors["a"]


def test_prompt_logprobs_are_of_the_next_prompt_tokens(spec, executor):
    """Scored in two chunks, every position has the log-probability that its own prefill gives the next token."""
    prompt = tokens_of(70, 3)
    groups = len(spec.kv_layout(16, "f32").groups)
    sequences = Sequences(executor, groups)
    blocks = tuple([7, 3, 9, 1, 4] for _ in range(groups))
    expected = []
    for end in range(1, 71):
        prefix = NewRequest("p", prompt[:end], GREEDY, blocks, 0)
        sequences.run(SchedulerOutput(end, (prefix,), (), {"p": end}, {"p": 1}, frozenset({"p"})))
        row = sequences.logits[-1][0].astype(np.float64)
        expected.append(row - np.log(np.exp(row).sum()))
    sampling = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=2, logprobs=0)
    scored = NewRequest("s", prompt, sampling, blocks, 0)
    first = sequences.run(SchedulerOutput(100, (scored,), (), {"s": 41}, {"s": 41}, frozenset()))
    rest = ContinuedRequest("s", ([],) * groups, 41)
    second = sequences.run(SchedulerOutput(101, (), (rest,), {"s": 29}, {"s": 29}, frozenset({"s"})))
    entries = [*first.prompt_logprobs["s"], *second.prompt_logprobs["s"]]
    assert [e.token_id for e in entries] == prompt[1:]
    for entry, row in zip(entries, expected, strict=False):
        assert entry.logprob == pytest.approx(row[entry.token_id], abs=1e-3)
        assert entry.top[0][1] == pytest.approx(row.max(), abs=1e-3)
    assert second.logprobs["s"][0].token_id == second.tokens["s"][0]


def test_a_copied_block_serves_as_its_source(spec, executor):
    """Copy-on-write: a request that goes on over copies draws what one over the originals draws."""
    groups = len(spec.kv_layout(16, "f32").groups)
    prompt = tokens_of(20, 4)
    sequences = Sequences(executor, groups)
    first = NewRequest("a", prompt, GREEDY, tuple([1, 2] for _ in range(groups)), 0)
    out = sequences.run(SchedulerOutput(1, (first,), (), {"a": 20}, {"a": 1}, frozenset({"a"})))
    copies = KVOps(copies=tuple((g, source, source + 10) for g in range(groups) for source in (1, 2)))
    second = NewRequest("b", [*prompt, *out.tokens["a"]], GREEDY, tuple([11, 12] for _ in range(groups)), 20)
    continued = ContinuedRequest("a", ([],) * groups, 20)
    out = sequences.run(
        SchedulerOutput(
            2, (second,), (continued,), {"b": 1, "a": 1}, {"b": 1, "a": 1}, frozenset({"a", "b"}), kv_ops=copies
        )
    )
    assert out.tokens["a"] == out.tokens["b"]


def capped(spec):
    """Scores and logits behind a soft cap, which gives finite numbers alone."""
    layers = tuple(
        dataclasses.replace(layer, attention=dataclasses.replace(layer.attention, soft_cap=50.0))
        for layer in spec.layers
    )
    return dataclasses.replace(spec, layers=layers, logits_soft_cap=30.0)


@every_isa
@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
@pytest.mark.parametrize("with_caps", [False, True], ids=["plain", "capped"])
def test_nan_is_an_error_of_the_request_that_met_it(spec, with_caps, dtype, isa, tmp_path, monkeypatch):
    """A weight that is NaN in one token's embedding: a request with that token fails, alone, on every instruction set."""
    spoiled = 7

    def load(spec, checkpoint):
        for weight, stored in load_weights(spec, checkpoint):
            if weight.name == "embedding":
                rows = stored.data.copy()
                rows.view(np.float32)[spoiled, 3] = np.nan
                yield weight, dataclasses.replace(stored, data=rows)
            else:
                yield weight, stored

    monkeypatch.setattr(native_executor, "load_weights", load)
    monkeypatch.setenv("OCTAVO_NATIVE_ISA", name_of(isa))
    spec = capped(spec) if with_caps else spec
    executor = start(NativeExecutor, spec, tmp_path, dtype=dtype)
    sequences = Sequences(executor, len(spec.kv_layout(16, "f32").groups))
    good, bad = [1, 2, 3, 4, 5], [1, 2, spoiled, 4, 5]
    out = sequences.step({"good": 5, "bad": 5}, {**request("good", good), **request("bad", bad)})
    if spec.tied_head:  # that token's logit is NaN whatever the prompt
        assert set(out.errors) == {"good", "bad"}
    else:
        assert set(out.errors) == {"bad"}
        assert list(out.tokens) == ["good"]
    assert out.errors["bad"] == "the model's logits are not finite numbers"
    scored = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=1)
    fresh = NewRequest("scored", bad, scored, tuple([9] for _ in range(sequences.groups)), 0)
    out = sequences.run(SchedulerOutput(50, (fresh,), (), {"scored": 5}, {"scored": 5}, frozenset()))
    assert out.errors == {"scored": "the model's logits are not finite numbers"}
    executor.close()


def test_each_request_has_its_own_row_of_a_mask(spec, executor):
    """Rows are those of the step's constrained requests, refused ones included; the others draw freely."""
    groups = len(spec.kv_layout(16, "f32").groups)
    allowed = {"first": 11, "bad": 12, "no blocks": 15, "third": 14}
    tokens = {"first": [1], "bad": [211], "second": [2], "third": [3]}
    blocks = iter(range(1, 99))
    new = [NewRequest(r, t, GREEDY, tuple([next(blocks)] for _ in range(groups)), 0) for r, t in tokens.items()]
    stray = NewRequest("no blocks", [4], GREEDY, ([],) * groups, 0)
    mask = np.zeros((len(allowed), 224 // 8), np.uint8)  # 211 tokens in seven words
    for row, token in enumerate(allowed.values()):
        mask[row, token // 8] = 1 << token % 8
    news = (new[0], new[1], stray, new[2], new[3])
    counts = {r.request_id: 1 for r in news}
    step = SchedulerOutput(1, news, (), counts, counts, frozenset(counts), constrained=tuple(allowed))
    handle = executor.submit(step)
    best = executor.logits()[1].argmax()
    executor.sample(handle, mask.tobytes())
    out = executor.collect(handle)
    assert set(out.errors) == {"bad", "no blocks"}
    assert out.tokens == {"first": [11], "second": [best], "third": [14]}


def test_a_mask_that_is_too_short_is_refused(spec, executor):
    """Rather than read beyond its end."""
    groups = len(spec.kv_layout(16, "f32").groups)
    new = NewRequest("a", [1], GREEDY, tuple([1] for _ in range(groups)), 0)
    step = SchedulerOutput(1, (new,), (), {"a": 1}, {"a": 1}, frozenset({"a"}), constrained=("a",))
    handle = executor.submit(step)
    with pytest.raises(ValueError, match="a grammar mask of 27 bytes has no row 0 of 28"):
        executor.sample(handle, bytes(27))
