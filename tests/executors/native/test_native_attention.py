"""Attention over blocks: chunks and decodes in one batch, over shuffled blocks, equal whole attention in numpy."""

from __future__ import annotations

import numpy as np
import pytest
from attention_twin import Parameters, Shape, attention
from instruction_sets import BEST, BEST_OF_OPERATIONS, every_isa_of_operations

from octavo_engine.executors.native import _native

SHAPES = {
    "grouped heads": Shape(),
    "one head": Shape(num_heads=1, num_kv_heads=1),
    "three heads on one": Shape(num_heads=9, num_kv_heads=3, head_dim_k=64, head_dim_v=64, rotary_dim=64),
    "heads of 128, four on one": Shape(num_heads=32, num_kv_heads=8, head_dim_k=128, head_dim_v=128, rotary_dim=128),
    "heads of 96": Shape(num_heads=4, num_kv_heads=4, head_dim_k=96, head_dim_v=96, rotary_dim=96),
    "heads of 80, a quarter turned": Shape(num_heads=8, num_kv_heads=2, head_dim_k=80, head_dim_v=80, rotary_dim=20),
    "wide heads, normed": Shape(num_heads=4, num_kv_heads=1, head_dim_k=256, head_dim_v=256, rotary_dim=256, norms=True),
    "many heads on one": Shape(num_heads=32, num_kv_heads=1),
    "71 heads on one": Shape(num_heads=71, num_kv_heads=1),
    "odd head sizes": Shape(head_dim_k=18, head_dim_v=24, rotary_dim=10, biases=True),
    "pairs side by side": Shape(rotary_dim=8, interleaved=True),
    "no rotary": Shape(rotary_dim=0),
    "window": Shape(window=21),
    "window of one": Shape(window=1),
    "wide window": Shape(window=130, norms=True),
    "soft cap": Shape(soft_cap=1.5, biases=True),
    "slopes": Shape(slopes=True, rotary_dim=0),
    "sinks": Shape(sinks=True),
    "chunks": Shape(chunk=37),
    "chunks, slopes and sinks of 40 heads on one": Shape(num_heads=40, num_kv_heads=1, chunk=130, slopes=True, sinks=True),
    "latents": Shape(num_heads=6, num_kv_heads=1, head_dim_k=40, head_dim_v=32, rotary_dim=8, values_from=8),
    "latents of odd pairs, 35 heads": Shape(num_heads=35, num_kv_heads=1, head_dim_k=28, head_dim_v=22, rotary_dim=6, interleaved=True, values_from=6),
    "latents as published": Shape(num_heads=16, num_kv_heads=1, head_dim_k=576, head_dim_v=512, rotary_dim=64, interleaved=True, values_from=64),
    "all of it": Shape(num_heads=6, head_dim_k=48, head_dim_v=32, rotary_dim=32, window=33, soft_cap=3.0, norms=True, biases=True),
}  # fmt: skip


def make_layer(
    shape: Shape,
    parameters: Parameters,
    *,
    isa: int,
    bf16: bool = False,
    threads: int = 2,
    block_size: int = 16,
    num_blocks: int = 128,
) -> _native.AttentionLayer:
    model, rotary = _native.LayerModel(), _native.Rotary()
    model.num_heads, model.num_kv_heads = shape.num_heads, shape.num_kv_heads
    model.head_dim_k, model.head_dim_v = shape.head_dim_k, shape.head_dim_v
    model.scale, model.window, model.soft_cap = shape.scale, shape.window, shape.soft_cap
    model.values_from = shape.values_from
    model.chunk, model.alibi_slopes = shape.chunk, parameters.slopes.tolist() if shape.slopes else []
    rotary.dim, rotary.interleaved, rotary.inverse_frequencies = shape.rotary_dim, shape.interleaved, shape.frequencies
    norm = _native.Norm()
    norm.eps = parameters.eps
    model.q_norm = model.k_norm = norm
    layer = _native.AttentionLayer(
        model, rotary, isa=isa, threads=threads, bf16=bf16, block_size=block_size, num_blocks=num_blocks
    )
    if shape.norms:
        layer.set_norms(parameters.q_norm.tolist(), parameters.k_norm.tolist())
    if shape.biases:
        q, k, v = np.split(parameters.bias, np.cumsum(shape.sizes)[:2])
        layer.set_biases(q.tolist(), k.tolist(), v.tolist())
    if shape.sinks:
        layer.set_sinks(parameters.sinks.tolist())
    return layer


class Batch:
    """Sequences that advance step by step over blocks in a random order."""

    def __init__(self, layer, shape, lengths, rng, block_size=16, num_blocks=128):
        self.layer, self.shape = layer, shape
        self.qkv = [rng.standard_normal((n, shape.width)).astype(np.float32) for n in lengths]
        blocks = iter(rng.permutation(np.arange(1, num_blocks)).tolist())
        self.tables = [[next(blocks) for _ in range(-(-n // block_size))] for n in lengths]
        self.done = [0] * len(lengths)
        self.out = [np.zeros((n, shape.num_heads * shape.head_dim_v), np.float32) for n in lengths]

    def step(self, counts: list[int]) -> int:
        """`counts[i]` more tokens of sequence i, as many as it has."""
        work = [(i, min(n, len(self.qkv[i]) - self.done[i])) for i, n in enumerate(counts)]
        work = [(i, n) for i, n in work if n > 0]
        rows = np.concatenate([self.qkv[i][self.done[i] : self.done[i] + n] for i, n in work])
        out = np.full((len(rows), self.out[0].shape[1]), np.nan, np.float32)
        splits = self.layer.run(
            rows, [self.tables[i] for i, _ in work], [self.done[i] for i, _ in work], [n for _, n in work], out
        )
        at = 0
        for i, n in work:
            self.out[i][self.done[i] : self.done[i] + n] = out[at : at + n]
            self.done[i] += n
            at += n
        return splits

    @property
    def left(self) -> bool:
        return any(done < len(x) for done, x in zip(self.done, self.qkv, strict=True))


def check(out, qkv, shape, parameters, *, bf16=False, rows=slice(None)) -> None:
    """`out` is the twin's but for the rounding of sums; in bf16 also that of weights, which keep eight bits."""
    expected, spread = attention(qkv, shape, parameters, bf16=bf16)
    tolerance = (1e-2 if bf16 else 1e-5) * spread + 1e-7
    np.testing.assert_array_less(np.abs(out - expected)[rows], tolerance[rows])


@pytest.mark.sample(isa=[BEST_OF_OPERATIONS])
@pytest.mark.sample(name=["grouped heads", "latents", "sinks", "all of it"])
@every_isa_of_operations
@pytest.mark.parametrize("bf16", [False, True], ids=["f32", "bf16"])
@pytest.mark.parametrize("name", SHAPES)
def test_mixed_batches_equal_whole_attention(name, bf16, isa):
    """Prefill chunks of odd sizes and decodes, mixed in every step, give what whole attention gives."""
    shape, rng = SHAPES[name], np.random.default_rng(7)
    parameters = Parameters.random(shape, rng)
    batch = Batch(make_layer(shape, parameters, isa=isa, bf16=bf16), shape, [1, 16, 37, 150, 201], rng)
    chunks = [[1, 5, 1, 67, 33], [0, 1, 17, 1, 133], [1, 16, 16, 90, 1]]
    for step in range(200):
        if not batch.left:
            break
        batch.step(chunks[step % 3])
    for qkv, out in zip(batch.qkv, batch.out, strict=True):
        check(out, qkv, shape, parameters, bf16=bf16)


@pytest.mark.sample(isa=[BEST_OF_OPERATIONS])
@every_isa_of_operations
@pytest.mark.parametrize("bf16", [False, True], ids=["f32", "bf16"])
@pytest.mark.parametrize(
    "shape",
    [
        Shape(num_heads=3, num_kv_heads=1),
        Shape(num_heads=3, num_kv_heads=1, window=300),
        Shape(num_heads=6, num_kv_heads=1, head_dim_k=40, head_dim_v=30, rotary_dim=10, values_from=10),
        Shape(
            num_heads=34, num_kv_heads=1, head_dim_k=4, head_dim_v=4, rotary_dim=0, chunk=450, slopes=True, sinks=True
        ),
    ],
    ids=["all keys", "window", "latents", "pieces of heads with sinks"],
)
def test_keys_that_are_split_among_threads_give_the_same_bits(shape, bf16, isa):
    """Decoded alone by one thread, by three that share the keys, or in a chunk of a prompt: no bit differs."""
    outs, splits = [], []
    for threads, chunks in ((1, [699, 129]), (3, [699, 129]), (2, [500, 100]), (1, [333, 64]), (2, [700, 130])):
        rng = np.random.default_rng(3)
        parameters = Parameters.random(shape, rng)
        batch = Batch(make_layer(shape, parameters, isa=isa, bf16=bf16, threads=threads), shape, [700, 130], rng)
        batch.step(chunks)
        while batch.left:
            splits.append(batch.step([1, 1] if batch.done[0] >= 690 else [57, 3]))
        outs.append(batch.out)
        if len(outs) == 1:
            for qkv, out in zip(batch.qkv, batch.out, strict=True):
                check(out, qkv, shape, parameters, bf16=bf16)
    assert max(splits) > 0
    assert min(splits) == 0
    for out in outs[1:]:
        for one, other in zip(outs[0], out, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_stretches_grow_with_the_context():
    """A row is summed in longer stretches from 4096 keys on, wherever chunks end: equal bits, and the twin's result."""
    shape = Shape(num_heads=2, num_kv_heads=1, head_dim_k=2, head_dim_v=2, rotary_dim=0)
    outs = []
    for chunk in (4110, 1000):
        rng = np.random.default_rng(3)
        parameters = Parameters.random(shape, rng)
        layer = make_layer(shape, parameters, isa=BEST, num_blocks=300)
        batch = Batch(layer, shape, [4120], rng, num_blocks=300)
        while batch.left:
            batch.step([chunk if batch.done[0] < 4000 else 1])
        outs.append(batch.out[0])
        expected, spread = attention(batch.qkv[0], shape, parameters)
        np.testing.assert_array_less(np.abs(outs[-1] - expected), 1e-5 * spread + 1e-7)
    np.testing.assert_array_equal(outs[0], outs[1])


@pytest.mark.parametrize("block_size", [16, 48, 128])
def test_blocks_of_several_tiles(block_size):
    """Blocks may hold any multiple of sixteen tokens."""
    shape, rng = Shape(window=40), np.random.default_rng(5)
    parameters = Parameters.random(shape, rng)
    layer = make_layer(shape, parameters, isa=BEST, block_size=block_size)
    batch = Batch(layer, shape, [200, 77], rng, block_size)
    while batch.left:
        batch.step([61, 7])
    for qkv, out in zip(batch.qkv, batch.out, strict=True):
        check(out, qkv, shape, parameters)


@every_isa_of_operations
@pytest.mark.parametrize("bf16", [False, True], ids=["f32", "bf16"])
@pytest.mark.parametrize(
    "shape",
    [Shape(head_dim_v=24), Shape(num_kv_heads=1, head_dim_k=26, head_dim_v=18, rotary_dim=8, values_from=8)],
    ids=["keys and values", "latents"],
)
def test_what_a_blocks_last_owner_left_does_not_count(shape, bf16, isa):
    """Blocks full of NaN serve a new sequence as clean ones do, at odd lengths too."""
    rng = np.random.default_rng(11)
    parameters = Parameters.random(shape, rng)
    layer = make_layer(shape, parameters, isa=isa, bf16=bf16)
    layer.fill_blocks(0xFF)
    batch = Batch(layer, shape, [23, 5, 48], rng)
    while batch.left:
        batch.step([9, 1, 11])
    for qkv, out in zip(batch.qkv, batch.out, strict=True):
        check(out, qkv, shape, parameters, bf16=bf16)


def test_blocks_before_the_window_may_be_gone():
    """Table entries wholly before the window may be the null block, whatever it holds."""
    shape, rng = Shape(window=20), np.random.default_rng(13)
    parameters = Parameters.random(shape, rng)
    layer = make_layer(shape, parameters, isa=BEST)
    layer.fill_blocks(0xFF)
    batch = Batch(layer, shape, [120], rng)
    while batch.left:
        first_seen = max(0, batch.done[0] - shape.window + 1)
        batch.tables[0][: first_seen // 16] = [0] * (first_seen // 16)
        batch.step([7])
    check(batch.out[0], batch.qkv[0], shape, parameters)


def test_a_request_reads_blocks_that_another_fills_in_the_same_step():
    """Keys and values are written for the whole batch before anything reads them."""
    shape, rng = Shape(), np.random.default_rng(17)
    parameters = Parameters.random(shape, rng)
    batch = Batch(make_layer(shape, parameters, isa=BEST), shape, [32, 40], rng)
    batch.qkv[1][:32] = batch.qkv[0]
    batch.tables[1][:2] = batch.tables[0]
    batch.done[1] = 32
    batch.step([32, 8])
    check(batch.out[0], batch.qkv[0], shape, parameters)
    check(batch.out[1], batch.qkv[1], shape, parameters, rows=slice(32, None))


def test_threads_do_not_change_the_result():
    """One thread and two give the same bits."""
    shape, outs = Shape(num_heads=8, num_kv_heads=8), []
    for threads in (1, 2):
        rng = np.random.default_rng(19)
        parameters = Parameters.random(shape, rng)
        batch = Batch(make_layer(shape, parameters, isa=BEST, threads=threads), shape, [90, 33], rng)
        while batch.left:
            batch.step([31, 5])
        outs.append(np.concatenate(batch.out))
    np.testing.assert_array_equal(outs[0], outs[1])


@every_isa_of_operations
@pytest.mark.parametrize("bf16", [False, True], ids=["f32", "bf16"])
@pytest.mark.parametrize("soft_cap", [0.0, 2.0])
@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000, 0x7F800001], ids=hex)
@pytest.mark.parametrize("where", ["query", "key", "value"])
def test_nan_reaches_every_row_that_reads_it(where, bits, soft_cap, bf16, isa):
    """Whatever its bits are: of a query its own row, of a key or value all later ones; no other sequence's."""
    shape, rng = Shape(num_heads=2, num_kv_heads=1, soft_cap=soft_cap, rotary_dim=0), np.random.default_rng(23)
    parameters = Parameters.random(shape, rng)
    batch = Batch(make_layer(shape, parameters, isa=isa, bf16=bf16), shape, [40, 40], rng)
    q_size, k_size, _ = shape.sizes
    column = {"query": 0, "key": q_size, "value": q_size + k_size}[where]
    batch.qkv[0].view(np.uint32)[20, column] = bits
    while batch.left:
        batch.step([17, 9])
    heads = batch.out[0].reshape(40, 2, -1)
    seen = heads if where != "value" else heads[..., :1]
    assert np.isfinite(heads[:17]).all()  # later rows of its chunk multiply a value that they don't see by zero
    assert np.isnan(seen[20, 0]).all()
    if where != "query":
        assert np.isnan(seen[20:]).all()
    assert np.isfinite(batch.out[1]).all()


@pytest.mark.parametrize(
    ("tables", "positions", "counts", "message"),
    [
        ([[1]], [0], [17], "1 blocks for 17 tokens"),
        ([[0]], [0], [3], "block 0"),
        ([[128]], [0], [3], "block 128"),
        ([[-5]], [0], [3], "block -5"),
        ([[1]], [-1], [2], "positions -1"),
    ],
)
def test_work_that_contradicts_the_blocks_is_refused(tables, positions, counts, message):
    """A block outside the pool, or too few of them, is an error that names it, never a crash."""
    shape = Shape()
    layer = make_layer(shape, Parameters.random(shape, np.random.default_rng(0)), isa=BEST)
    rows = np.zeros((sum(counts), shape.width), np.float32)
    out = np.zeros((sum(counts), 64), np.float32)
    with pytest.raises(ValueError, match=message):
        layer.run(rows, tables, positions, counts, out)
