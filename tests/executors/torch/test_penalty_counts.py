"""Counts for penalties stay on the device from draw to draw, and tokens are those of counts taken afresh each time."""

from __future__ import annotations

import pytest
import torch
from octavo_testing.engine_runs import engine_config, generate, request
from octavo_testing.tiny_models import make

from octavo_engine.config import CacheConfig, ModelConfig, SchedulerConfig
from octavo_engine.engine.engine_core import EngineCore
from octavo_engine.executors.torch.executor import TorchExecutor
from octavo_engine.executors.torch.input_batch import RequestState
from octavo_engine.executors.torch.penalty_counts import FEWEST, PenaltyCounts
from octavo_engine.kernels.reference_operations import ReferenceOperations
from octavo_engine.kernels.reference_sampling import apply_penalties
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve

CPU = torch.device("cpu")
PENALTIES = [
    {"repetition_penalty": 1.3},
    {"frequency_penalty": 0.7},
    {},
    {"presence_penalty": -0.9, "temperature": 0.8},
    {"repetition_penalty": 0.8, "frequency_penalty": 0.3, "presence_penalty": 0.5},
]


class Counting(ReferenceOperations):
    """Notes how many tokens each row counts; every so many draws there is no memory for one, after its penalties."""

    def __init__(self, failing: int = 0) -> None:
        self.failing = failing
        self.draws = 0
        self.taken: list[int] = []

    def penalize(self, logits, penalties, known, counts):
        lengths = zip(known.lengths.tolist(), counts.counted.tolist(), counts.slots.tolist(), strict=True)
        self.taken += [length - counted for length, counted, slot in lengths if slot >= 0]
        super().penalize(logits, penalties, known, counts)

    def sample(self, logits, batch):
        self.draws += 1
        if self.failing and self.draws % self.failing == 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().sample(logits, batch)


class Afresh(ReferenceOperations):
    """Penalties by their definition, from the tokens alone."""

    def penalize(self, logits, penalties, known, counts):
        del counts
        for i, (row, length, prompt) in enumerate(
            zip(known.rows.tolist(), known.lengths.tolist(), known.prompt_lens.tolist(), strict=True)
        ):
            tokens = known.token_ids[row, :length].tolist()
            logits[i] = apply_penalties(
                logits[i],
                tokens[:prompt],
                tokens[prompt:],
                repetition=penalties.repetition[i].item(),
                frequency=penalties.frequency[i].item(),
                presence=penalties.presence[i].item(),
            )


def run(folder, operations, blocks, swap_space=0.0):
    config = engine_config(
        ModelConfig(model=str(folder), served_model_names=("tiny",), dtype="float32"),
        "torch",
        cache=CacheConfig(num_gpu_blocks_override=blocks, swap_space_gib=swap_space),
        scheduler=SchedulerConfig(max_num_batched_tokens=24, max_num_seqs=4),
    )
    files = resolve(config.model, lambda *_: None)
    spec = read_spec(config.model, files)
    core = EngineCore(config, TorchExecutor(config, spec, files, CPU, operations=operations), spec)
    requests = [
        request(str(i), [3 + (5 * i + j) % 190 for j in range(2 + 7 * (i % 4))], 14, seed=i, **PENALTIES[i % 5])
        for i in range(9)
    ]
    results = generate(core, requests)
    core.close()
    assert all(result.error is None for result in results.values())
    return {name: r.tokens for name, r in results.items()}, sum(r.num_preemptions for r in results.values())


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    make("llama", folder)
    return folder


@pytest.fixture(scope="module")
def afresh(llama):
    return run(llama, Afresh(), blocks=64)[0]


@pytest.mark.parametrize(
    ("blocks", "swap_space"), [(64, 0.0), (6, 0.0), (6, 0.01)], ids=["room", "recomputed", "swapped"]
)
@pytest.mark.parametrize("failing", [0, 5])
def test_tokens_are_those_of_counts_taken_afresh(llama, afresh, blocks, swap_space, failing):
    """More requests than slots, preempted ones, steps that fail after their penalties, the host a step behind."""
    counting = Counting(failing)
    tokens, preempted = run(llama, counting, blocks, swap_space)
    assert tokens == afresh
    assert (preempted > 0) == (blocks < 64)
    if blocks == 64 and not failing:
        most = [n for n in counting.taken if n != 1]
        assert len(most) == sum(bool(PENALTIES[i % 5]) for i in range(9)), "once a request; then a token a draw"


def state(name, **sampling):
    made = RequestState(name, [1, 2], 2, SamplingParams(max_tokens=9, **sampling), [], 0)
    made.row = 0
    return made


def drawn(counts, states, lengths):
    taken = counts.take(states, lengths, 50)
    counts.completed(states, lengths)
    return taken.slots.tolist(), taken.counted.tolist(), len(taken.table)


def test_requests_with_penalties_alone_have_slots():
    counts = PenaltyCounts(256, CPU)
    states = [state("a", repetition_penalty=2.0), state("plain"), state("b", presence_penalty=0.1)]
    assert drawn(counts, states, [2, 2, 2]) == ([0, -1, 1], [0, 0, 0], FEWEST)
    assert drawn(counts, states[::-1], [3, 3, 3])[:2] == ([1, -1, 0], [2, 2, 2])


def test_what_is_void_is_counted_again():
    """A draw that failed; and a draw of an earlier token than the last, whose successors are another's."""
    counts, one = PenaltyCounts(4, CPU), state("a", frequency_penalty=1.0)
    drawn(counts, [one], [7])
    counts.take([one], [8], 50)  # and no more
    assert drawn(counts, [one], [8])[1] == [0]
    assert drawn(counts, [one], [9])[1] == [8]
    assert drawn(counts, [one], [8])[1] == [0]
    assert drawn(counts, [one], [8])[1] == [8], "the same draw again: all is counted"


def test_a_slot_goes_to_the_next_request_when_its_owner_has_no_row():
    """Left, or preempted; it starts over when it comes back."""
    counts = PenaltyCounts(2, CPU)
    one, two, three = (state(name, frequency_penalty=1.0) for name in "abc")
    assert drawn(counts, [one, two], [5, 6]) == ([0, 1], [0, 0], 2)
    two.row = None
    assert drawn(counts, [one, three], [6, 9])[:2] == ([0, 1], [5, 0])
    one.row, two.row = None, 0
    assert drawn(counts, [two, three], [7, 10])[:2] == ([0, 1], [0, 9])


def test_the_table_grows_with_those_that_ask_and_no_further():
    counts = PenaltyCounts(20, CPU)
    states = [state(str(i), frequency_penalty=1.0) for i in range(20)]
    assert drawn(counts, states[:8], [3] * 8)[2] == 8
    _, counted, size = drawn(counts, states[6:9], [4] * 3)
    assert size == 16
    assert counted == [0, 0, 0], "a new table knows nothing of the last one's"
    assert drawn(counts, states, [5] * 20)[2] == 20
    assert sorted(drawn(counts, states, [6] * 20)[0]) == list(range(20))
    assert drawn(counts, states, [7] * 20)[1] == [6] * 20
