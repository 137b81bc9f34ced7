"""How many bytes of a card pages get: what is left beside the largest step, which is run to know."""

from __future__ import annotations

import pytest

from octavo_engine.config import SchedulerConfig
from octavo_engine.errors import ExecutorError
from octavo_engine.executors.torch.memory import GIB, Measured, largest_step, measure
from octavo_models.spec import KVGroup, KVLayout

LAYOUT = KVLayout(16, (KVGroup("full", (0,), 64), KVGroup("window", (1,), 64, 32)))


class Card:
    """80 GiB, of which others use one and PyTorch holds what this is told."""

    def __init__(self) -> None:
        self.weights = 16 * GIB
        self.libraries = 0
        self.graphs = 0

    def total(self) -> int:
        return 80 * GIB

    def held(self) -> int:
        return self.weights + self.graphs

    def free(self) -> int:
        driver = GIB // 8 if self.graphs else 0
        return 79 * GIB - self.held() - self.libraries - driver

    def peak(self, run) -> int:
        run()
        return self.held() + 3 * GIB

    def step(self) -> None:
        self.libraries = GIB  # loaded by the first step, and there to stay

    def record(self) -> None:
        self.graphs = 2 * GIB

    def forget(self) -> None:
        self.graphs = 0


def test_pages_get_what_the_largest_step_and_the_graphs_leave():
    """The pool of all graphs once, the driver's part as often as there may be graphs, and not a byte twice."""
    card = Card()
    measured = measure(card, card.step, card.record, card.forget, 10)
    assert measured == Measured(total=80 * GIB, used=18 * GIB, activations=3 * GIB, graphs=2 * GIB + 10 * (GIB // 8))
    assert measured.kv_bytes(0.9) == 72 * GIB - 18 * GIB - 3 * GIB - 2 * GIB - 10 * (GIB // 8)


def test_without_graphs_nothing_is_kept_for_them():
    card = Card()
    assert measure(card, card.step, None, card.forget, 0).graphs == 0


def test_a_card_that_is_too_small_says_what_takes_its_room():
    with pytest.raises(
        ExecutorError, match=r"90% of 80.00 GiB, of which 70.00 GiB are in use .* takes 3.00 .* --max-num"
    ):
        Measured(80 * GIB, 70 * GIB, 3 * GIB, 0).kv_bytes(0.9)


@pytest.mark.parametrize(
    ("tokens", "seqs", "max_len", "lengths"),
    [(10, 3, 100, [4, 3, 3]), (2, 3, 100, [1, 1]), (100, 2, 30, [30, 30])],
)
def test_the_largest_step_has_all_requests_and_all_tokens(tokens, seqs, max_len, lengths):
    """Every one of them draws, and every position of it is scored."""
    step = largest_step(SchedulerConfig(max_num_seqs=seqs, max_num_batched_tokens=tokens), LAYOUT, max_len)
    assert list(step.num_scheduled_tokens.values()) == list(step.logits_wanted.values()) == lengths
    assert step.samples == step.num_scheduled_tokens.keys()
    for request in step.new:
        assert [len(pages) for pages in request.block_ids] == [-(-len(request.token_ids) // 16)] * 2


def test_the_swap_space_is_one_piece_of_host_memory():
    """PyTorch pins the next power of two of each tensor: many would take up to twice the swap space."""
    import torch
    from planner_cases import SMALL

    from octavo_engine.executors.torch.kv_cache import KVCache
    from octavo_models import from_hf_config

    spec = from_hf_config(SMALL | {"num_hidden_layers": 3})
    layout = spec.kv_layout(16, "bf16")
    cache = KVCache(spec, layout, (2,), "bf16", torch.device("cpu"), (5,))
    tensors = [*cache._host_keys.values(), *cache._host_values.values()]
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == 1
    assert tensors[0].untyped_storage().nbytes() == 5 * layout.groups[0].page_bytes
    assert len({tensor.data_ptr() for tensor in tensors}) == len(tensors) == 6
