"""Rows that use an adapter are computed as over the weights that it is merged into, beside rows that use another or none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from adapter_runs import (
    Asked,
    config_of,
    described,
    merged_weights,
    prompts,
    random_adapter,
    run,
    started,
    without_adapters,
)
from octavo_testing.gguf_files import write_mixed_gguf
from octavo_testing.recorded_graph import GraphRecorder
from octavo_testing.tiny_models import make

from octavo_engine.errors import ExecutorError
from octavo_engine.executors.torch.adapter_slots import AdapterSlots
from octavo_engine.kernels.backends import triton_operations_on
from octavo_engine.kernels.reference_operations import ReferenceOperations
from octavo_engine.weights.adapter import Adapter, LowRank


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    make("llama with biases", folder)
    return folder


def assert_alike(got, expected, bound=2e-3):
    assert got.error is None
    assert got.tokens == expected.tokens
    assert got.logprobs == pytest.approx(expected.logprobs, abs=bound)
    assert got.prompt_logprobs == pytest.approx(expected.prompt_logprobs, abs=bound)


def check_merged(config, ranks=(4, 8), kinds=None, **options):
    """Requests of two adapters and none in one batch, each against a model of its own."""
    spec, _ = described(config)
    kinds = kinds or {}
    adapters = [random_adapter(spec, i, rank, **kinds) for i, rank in enumerate(ranks, 1)]
    texts = prompts(spec)
    asked = [Asked(texts[i], adapter_id, joins=i) for i, adapter_id in enumerate((1, 0, 2, 1))]
    got = run(started(config, adapters, **options), asked)
    plain = without_adapters(config)
    for adapter_id in (0, 1, 2):
        chosen = adapters[adapter_id - 1] if adapter_id else Adapter(0, ())
        merged = started(plain, weights=merged_weights(config, chosen))
        own = [i for i, a in enumerate(asked) if a.adapter_id == adapter_id]
        for i, expected in zip(own, run(merged, [Asked(asked[i].prompt) for i in own]), strict=True):
            assert_alike(got[i], expected)
    return got


@pytest.mark.sample(kind=["llama with biases"])
@pytest.mark.parametrize("kind", ["llama with biases", "gemma 3", "qwen 3", "gpt 2", "exaone 4", "gemma 3n"])
def test_an_adapter_in_a_batch_is_as_one_that_is_merged(kind, tmp_path):
    """Prompts in chunks beside decodes, log-probabilities of prompts included."""
    make(kind, tmp_path)
    config = config_of(tmp_path, dtype="float32")
    got = check_merged(config)
    assert got[0].tokens != got[1].tokens


def test_parts_of_some_weights_and_of_several_ranks(llama):
    """v and down alone, of ranks 1 to 8: the projections beside v stay as they are."""
    only = {"only": lambda name: name.endswith((".v", ".down")), "ranks": (1, 8, 3)}
    check_merged(config_of(llama, dtype="float32"), kinds=only)


@pytest.mark.slow
def test_interpreted_kernels_add_what_the_twin_adds(llama):
    config = config_of(llama, dtype="float32")
    spec, _ = described(config)
    adapters = [random_adapter(spec, i) for i in (1, 2)]
    asked = [
        Asked(text, adapter_id, num_tokens=2)
        for text, adapter_id in zip(prompts(spec, (1, 9, 3)), (1, 2, 0), strict=True)
    ]
    expected = run(started(config, adapters), asked)
    for got, want in zip(
        run(started(config, adapters, operations=triton_operations_on(torch.device("cpu"))), asked),
        expected,
        strict=True,
    ):
        assert_alike(got, want)


@pytest.mark.parametrize("packed", [False, True], ids=["widened", "packed"])
def test_adapters_of_quantized_weights_stay_as_they_are(tmp_path, monkeypatch, packed):
    """The weights are what the file's few bits stand for; nothing is quantized again."""
    monkeypatch.setattr(ReferenceOperations, "prefers_packed", packed)
    write_mixed_gguf(tmp_path / "mixed.gguf")
    check_merged(config_of(tmp_path / "mixed.gguf"))


def test_graphs_replay_steps_with_adapters_and_steps_without(llama):
    """Slots are filled between replays, at addresses that stay."""
    recorder = GraphRecorder()
    config = config_of(llama, max_loras=2, dtype="float32")
    spec, _ = described(config)
    adapters = [random_adapter(spec, i) for i in (1, 2, 3)]
    texts = prompts(spec, (3, 2, 4, 1))
    rounds = [(1, 2, 0, 1), (3, 3, 0, 0), (0, 0, 0, 0), (2, 3, 2, 0)]
    graphed = started(config, adapters, recorder=recorder, operations=recorder.over(ReferenceOperations()))
    eager = started(config, adapters)
    for ids in rounds:
        asked = [Asked(text, adapter_id) for text, adapter_id in zip(texts, ids, strict=True)]
        before = recorder.replays
        got, expected = run(graphed, asked, chunk=64), run(eager, asked, chunk=64)
        assert recorder.replays - before >= 4, "decodes are replayed"
        for a, b in zip(got, expected, strict=True):
            assert_alike(a, b, 1e-4)
    keys = graphed.runner.graphs.keys
    assert {key.adapted for key in keys} == {True, False}
    assert keys[0].adapted, "the one that takes most memory comes first"


def test_adapters_take_turns_in_fewer_slots(llama):
    """More adapters than slots over time: each answers as it does alone, also when it comes back."""
    config = config_of(llama, max_loras=2, dtype="float32")
    spec, _ = described(config)
    adapters = [random_adapter(spec, i) for i in (1, 2, 3, 4)]
    text = prompts(spec, (9,))[0]
    shared = started(config, adapters)
    alone = {a.adapter_id: run(started(config, [a]), [Asked(text, a.adapter_id)])[0] for a in adapters}
    assert len({tuple(result.tokens) for result in alone.values()}) == 4
    for pair in ((1, 2), (2, 3), (4, 1), (3, 2), (1, 1)):
        for adapter_id, result in zip(pair, run(shared, [Asked(text, i) for i in pair]), strict=True):
            assert_alike(result, alone[adapter_id], 1e-4)


def test_the_slot_that_was_used_longest_ago_makes_way(llama):
    spec, _ = described(config := config_of(llama, max_loras=2, dtype="float32"))
    slots = AdapterSlots(
        spec,
        started(without_adapters(config)).runner.parallel.place,
        config.adapters,
        torch.float32,
        torch.device("cpu"),
    )
    for i in (1, 2, 3):
        slots.keep(Adapter(i, ()))
    first = slots.place([1])
    second = slots.place([2])
    assert slots.place([1]) == first, "used again"
    assert slots.place([3]) == {3: second[2]}
    assert slots.place([3, 1]) == {3: second[2], **first}
    slots.remove(1)
    assert slots.place([2, 3]) == {2: first[1], 3: second[2]}


def test_an_adapter_that_is_removed_is_known_no_more_and_another_takes_its_place(llama):
    """Under another id: what a slot held of the first is all gone, the parts included that the second lacks."""
    config = config_of(llama, max_loras=1, dtype="float32")
    spec, _ = described(config)
    executor = started(config, [random_adapter(spec, 1)])
    text = prompts(spec, (9,))[0]
    first = run(executor, [Asked(text, 1)])[0]
    executor.remove_adapter(1)
    executor.remove_adapter(1)  # an unknown id is ignored
    refused, served = run(executor, [Asked(text, 1), Asked(text)])
    assert refused.error == "adapter 1 is not loaded: load it again"
    assert_alike(served, run(started(without_adapters(config)), [Asked(text)])[0], 1e-4)
    second = random_adapter(spec, 2, only=lambda name: name.endswith(".q"))
    executor.add_adapter(second)
    expected = run(started(config, [second]), [Asked(text, 2)])[0]
    assert_alike(run(executor, [Asked(text, 2)])[0], expected, 1e-4)
    executor.add_adapter(Adapter(3, random_adapter(spec, 1).parts))
    assert_alike(run(executor, [Asked(text, 3)])[0], first, 1e-4)


def test_a_slot_that_can_not_be_filled_fails_the_step_and_the_next_one_runs(llama, monkeypatch):
    """The core then sends each request alone: the others' answers are what they would be."""
    config = config_of(llama, max_loras=1, dtype="float32")
    spec, _ = described(config)
    executor = started(config, [random_adapter(spec, 1), random_adapter(spec, 2)])
    text = prompts(spec, (9,))[0]
    expected = run(executor, [Asked(text, 1)])[0]
    slots = executor.runner.adapters

    class Broken:
        def pin_memory(self):
            raise AssertionError

    kept = slots._kept[2]
    slots._kept[2] = type(kept)(Broken(), kept.ranks)
    with pytest.raises(TypeError):
        run(executor, [Asked(text, 2)])
    executor.runner.requests.clear()
    assert_alike(run(executor, [Asked(text, 1)], first_step=50)[0], expected, 1e-4)
    slots._kept[2] = kept
    again = run(executor, [Asked(text, 2)], first_step=100)[0]
    assert_alike(again, run(started(config, [random_adapter(spec, 2)]), [Asked(text, 2)])[0], 1e-4)


def part(name, rank=2, columns=48, rows=96):
    return LowRank(name, np.zeros((rank, columns), np.float32), np.zeros((rows, rank), np.float32))


@pytest.mark.parametrize(
    ("low_rank", "said"),
    [
        (part("layers.9.q"), "the adapter changes layers.9.q, and the model has no such weight"),
        (part("embedding"), "the adapter changes embedding, and the torch executor adapts no weight of its kind"),
        (part("layers.0.q", rank=9), "rank 9, and there is room for 8: raise --max-lora-rank"),
        (part("layers.0.q", rows=97), r"shapes \[2, 48\] and \[97, 2\], and the model takes \[2, 48\] and \[96, 2\]"),
    ],
)
def test_what_an_adapter_can_not_change_is_refused_by_name(llama, low_rank, said):
    config = config_of(llama, dtype="float32")
    spec, _ = described(config)
    executor = started(config, [random_adapter(spec, 1)])
    with pytest.raises(ExecutorError, match=said):
        executor.add_adapter(Adapter(2, (*random_adapter(spec, 2).parts, low_rank)))
    assert not executor.runner.adapters.has(2)
    assert executor.runner.adapters.has(1), "all else is as before"


@pytest.mark.parametrize(("kind", "name"), [("mixtral", "layers.0.experts_gate"), ("deepseek v3", "layers.0.q_b")])
def test_experts_and_latent_projections_are_refused_by_name(tmp_path, kind, name):
    make(kind, tmp_path)
    executor = started(config_of(tmp_path, dtype="float32"))
    with pytest.raises(ExecutorError, match=f"{name}, and the torch executor adapts no weight of its kind"):
        executor.add_adapter(Adapter(1, (part(name),)))


def test_an_engine_without_adapters_has_no_slots(llama):
    """No memory is taken for them, and capabilities say that none are served."""
    config = config_of(llama, enabled=False, dtype="float32")
    executor = started(config)
    assert executor.runner.adapters is None
    assert not executor.capabilities.adapters
    assert all(layer.o.adapted is None for layer in executor.runner.decoder.layers)
    with pytest.raises(ExecutorError, match="--enable-lora"):
        executor.add_adapter(Adapter(1, ()))
    executor.remove_adapter(1)
    assert started(config_of(llama, dtype="float32")).capabilities.adapters
