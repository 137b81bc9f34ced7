"""Block tables, prefixes and windows."""

from __future__ import annotations

from hashlib import blake2b

from octavo_engine.core.block_hashes import chain_root, extend_chain
from octavo_engine.core.block_manager import BlockManager, window_peak
from octavo_engine.core.request import Sequence
from octavo_engine.messages import EngineRequest
from octavo_engine.sampling_params import SamplingParams
from octavo_models.spec import KVGroup, KVLayout


def manager(*windows: int | None, blocks: int = 50, max_chunk: int = 100, caching: bool = True) -> BlockManager:
    """Blocks of four tokens, `blocks` of them in each group."""
    groups = tuple(KVGroup("full" if w is None else "window", (i,), 1, w) for i, w in enumerate(windows))
    return BlockManager(KVLayout(4, groups), (blocks + 1,) * len(groups), max_chunk=max_chunk, caching=caching)


def sequence(tokens: list[int], **fields) -> Sequence:
    request = EngineRequest(
        request_id="r", prompt_token_ids=tokens, sampling=SamplingParams(max_tokens=50), arrival_time=0.0, **fields
    )
    return Sequence.from_request(request, order=(0, 0, 0), max_model_len=1000, queued_at=0.0)


def compute(block_manager: BlockManager, tokens: list[int], **fields) -> Sequence:
    """A sequence that has been computed whole."""
    seq = sequence(tokens, **fields)
    prefix = block_manager.lookup(seq)
    assert block_manager.admit(seq, prefix, len(tokens) - prefix.num_tokens)
    block_manager.fill(seq, len(tokens))
    seq.num_computed = len(tokens)
    return seq


def cached(block_manager: BlockManager, tokens: list[int], **fields) -> int:
    return block_manager.lookup(sequence(tokens, **fields)).num_tokens


def test_hit_is_whole_blocks_and_leaves_a_token_to_compute() -> None:
    """Nine tokens hit two blocks; eight tokens, though both blocks are there, only one."""
    block_manager = manager(None)
    compute(block_manager, list(range(10)))
    assert cached(block_manager, list(range(10))) == 8
    assert cached(block_manager, list(range(9))) == 8
    assert cached(block_manager, list(range(8))) == 4
    assert cached(block_manager, [0, 1, 2, 3, 4, 5, 9, 9, 9]) == 4


def test_salt_and_adapter_keep_prefixes_apart() -> None:
    """One tenant's timing reveals nothing of another's prompts."""
    block_manager = manager(None)
    compute(block_manager, list(range(10)), cache_salt="a")
    assert cached(block_manager, list(range(10))) == 0
    assert cached(block_manager, list(range(10)), cache_salt="b") == 0
    assert cached(block_manager, list(range(10)), cache_salt="a", adapter_id=1) == 0
    assert cached(block_manager, list(range(10)), cache_salt="a") == 8


def test_same_block_after_another_beginning_is_another_block() -> None:
    """A digest covers all tokens before its block."""
    block_manager = manager(None)
    compute(block_manager, [1, 1, 1, 1, 5, 6, 7, 8, 9])
    compute(block_manager, [2, 2, 2, 2, 3])
    assert cached(block_manager, [2, 2, 2, 2, 5, 6, 7, 8, 9]) == 4


def test_digests_do_not_depend_on_where_the_chain_was_cut() -> None:
    """Digests extended block by block or all at once are the same, in every process."""
    tokens = list(range(70_000, 70_012))
    root = chain_root("salt", 0)
    at_once: list[bytes] = []
    extend_chain(at_once, root, tokens, 3, 4)
    by_block: list[bytes] = []
    for blocks in (1, 2, 3):
        extend_chain(by_block, root, tokens, blocks, 4)
    assert at_once == by_block
    named = (4).to_bytes(8, "little") + b"salt" + bytes(8)
    first = blake2b(named, digest_size=16).digest() + b"".join(t.to_bytes(4, "little") for t in tokens[:4])
    assert at_once[0] == blake2b(first, digest_size=16).digest()


def test_request_for_prompt_logprobs_computes_its_whole_prompt() -> None:
    """A hit has no logits."""
    block_manager = manager(None)
    compute(block_manager, list(range(10)))
    seq = sequence(list(range(10)))
    seq.use_prefix_cache = False
    assert block_manager.lookup(seq).num_tokens == 0


def test_without_caching_nothing_is_found() -> None:
    """Nothing is kept either."""
    block_manager = manager(None, caching=False)
    seq = sequence(list(range(10)))
    assert block_manager.admit(seq, block_manager.lookup(seq), 10)
    assert seq.next_fill > 1 << 60
    block_manager.free(seq)
    assert cached(block_manager, list(range(10))) == 0
    block_manager.check()


def test_window_group_needs_only_its_last_window_for_a_hit() -> None:
    """Blocks that the window does not reach are the null block in the table."""
    block_manager = manager(None, 6)  # its last five tokens: two blocks
    seq = compute(block_manager, list(range(21)))
    assert block_manager.extend(seq, 22) is not None
    block_manager.free(seq)
    prefix = block_manager.lookup(sequence(list(range(21))))
    assert prefix.num_tokens == 20
    assert [block > 0 for block in prefix.tables[0]] == [True] * 5
    assert [block > 0 for block in prefix.tables[1]] == [False, False, False, True, True]


def test_hit_shrinks_until_every_group_agrees() -> None:
    """A window that finds a gap shortens the prefix, and that moves the other windows."""
    block_manager = manager(None, 5, 9)
    seq = compute(block_manager, list(range(25)))
    tables = seq.tables
    block_manager.free(seq)
    assert cached(block_manager, list(range(25))) == 24
    block_manager.forget([(1, tables[1][5])])  # the short window now ends at block 5, and needs block 4
    assert cached(block_manager, list(range(25))) == 20
    block_manager.forget([(2, tables[2][3])])  # the long one needs blocks 3 and 4 there: it falls back to block 3 …
    assert cached(block_manager, list(range(25))) == 12
    block_manager.forget([(1, tables[1][2])])  # … where the short one is missing
    assert cached(block_manager, list(range(25))) == 8
    block_manager.check()


def test_window_of_one_token_needs_no_block_of_the_prefix() -> None:
    """A query that sees only itself."""
    block_manager = manager(1)
    compute(block_manager, list(range(9)))
    prefix = block_manager.lookup(sequence(list(range(9))))
    assert prefix.num_tokens == 8
    assert prefix.tables == ([0, 0],)


def test_window_gives_back_what_no_later_query_sees() -> None:
    """The table keeps a zero in its place, and the block can be had at once."""
    block_manager = manager(6, caching=False)
    seq = sequence(list(range(30)))
    assert block_manager.admit(seq, block_manager.lookup(seq), 12)
    seq.num_computed = 12
    before = block_manager.pools[0].num_free
    added = block_manager.extend(seq, 16)
    assert added is not None
    assert len(added[0]) == 1
    assert seq.tables[0][0] == 0  # position 12 sees 7 … 12: block 0 (0 … 3) is behind it, block 1 (4 … 7) is not
    assert seq.tables[0][1] != 0
    assert block_manager.pools[0].num_free == before
    block_manager.check()


def test_window_holds_no_more_than_its_peak() -> None:
    """While a long prompt is computed in chunks that lie anyhow."""
    for window in (1, 2, 5, 8):
        for chunk in (1, 3, 4, 7):
            block_manager = manager(window, max_chunk=chunk, blocks=window_peak(window, chunk, 4), caching=False)
            seq = sequence(list(range(100)))
            assert block_manager.admit(seq, block_manager.lookup(seq), min(chunk, 2))
            seq.num_computed = min(chunk, 2)
            while seq.num_computed < 100:
                end = min(100, seq.num_computed + chunk)
                assert end <= seq.capacity or block_manager.extend(seq, end) is not None
                seq.num_computed = end


def test_admission_takes_nothing_when_the_prompt_does_not_fit() -> None:
    """The prompt's prefix is not taken either: it would be in its own way."""
    block_manager = manager(None, blocks=4)
    block_manager.free(compute(block_manager, list(range(9))))
    other = compute(block_manager, [50])
    seq = sequence(list(range(16)))
    assert not block_manager.admit(seq, block_manager.lookup(seq), 8)
    assert block_manager.pools[0].num_in_use == 1
    assert seq.tables == ()
    block_manager.free(other)
    assert block_manager.admit(seq, block_manager.lookup(seq), 8)
    block_manager.check()


def test_extension_takes_nothing_when_one_group_runs_out() -> None:
    """All groups or none."""
    block_manager = manager(None, None, blocks=2)
    seq = compute(block_manager, list(range(4)))
    block_manager.pools[1].take()
    assert block_manager.extend(seq, 5) is None
    assert [len(table) for table in seq.tables] == [1, 1]
    assert block_manager.pools[0].num_free == 1


def test_end_of_a_prefix_is_evicted_before_its_beginning() -> None:
    """A common beginning is worth more than one continuation."""
    block_manager = manager(None, blocks=3)
    block_manager.free(compute(block_manager, list(range(12))))
    block_manager.pools[0].take()
    assert cached(block_manager, list(range(13))) == 8
