"""Packed products equal their numpy twin, in every format and instruction set that runs here."""

from __future__ import annotations

import itertools

import matmul_twin as twin
import numpy as np
import pytest
from instruction_sets import AMX, every_isa

from octavo_engine.executors.native import _native as native

BF16, F16, F32 = twin.FORMATS["bf16"], twin.FORMATS["f16"], twin.FORMATS["f32"]


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def pack(parts, k, isa, widen=-1):
    return native.pack([(twin.FORMATS[name], len(rows), rows.reshape(-1)) for name, rows in parts], k, widen, isa)


def multiply(w, x, isa, threads=1):
    y = np.full((len(x), w.n), np.nan, dtype=np.float32)
    native.multiply(w, np.ascontiguousarray(x, dtype=np.float32), y, threads, isa)
    return y


@every_isa
@pytest.mark.parametrize("name", twin.FORMATS)
def test_products_equal_the_twin_for_every_number_of_rows(name, isa, rng):
    """m from 1 to 67 meets every tile; n = 83 leaves a panel of three columns."""
    k, n = (512 if name.endswith("_k") else 96 if name.startswith("q") else 75), 83
    rows = twin.random_rows(name, n, k, rng)
    x = rng.normal(0, 1, (67, k)).astype(np.float32)
    expected, tolerance = twin.product(name, rows, x)
    w = pack([(name, rows)], k, isa)
    for m in (1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 13, 15, 16, 17, 20, 23, 24, 25, 31, 32, 33, 47, 48, 64, 67):
        if isa == AMX and name in twin.QUANTIZED and m >= 32:
            expected, tolerance = twin.product_widened(name, rows, x)
        assert np.all(np.abs(multiply(w, x[:m], isa) - expected[:m]) <= tolerance[:m])


@every_isa
@pytest.mark.parametrize("name", twin.FORMATS)
def test_products_equal_the_twin_for_odd_sizes(name, isa, rng):
    for n, blocks in itertools.product((1, 15, 16, 17, 48), (1, 3)):
        k = twin.BLOCK[name] * blocks
        rows = twin.random_rows(name, n, k, rng)
        x = rng.normal(0, 3, (5, k)).astype(np.float32)
        expected, tolerance = twin.product(name, rows, x)
        y = multiply(pack([(name, rows)], k, isa), x, isa)
        assert np.all(np.abs(y - expected) <= tolerance)


@pytest.mark.parametrize("name", twin.FORMATS)
def test_more_rows_than_the_cache_holds_are_taken_in_chunks(name, rng):
    k = 2048
    rows = twin.random_rows(name, 40, k, rng)
    x = rng.normal(0, 1, (301, k)).astype(np.float32)
    isa = native.best_isa()
    out = multiply(pack([(name, rows)], k, isa), x, isa, threads=2)
    products = [twin.product(name, rows, x)]
    if isa == AMX and name in twin.QUANTIZED:  # fewer than 32 rows of a chunk are left to the other product
        products.append(twin.product_widened(name, rows, x))
    near = [np.all(np.abs(out - expected) <= tolerance, axis=1) for expected, tolerance in products]
    assert np.all(np.logical_or.reduce(near))
    assert len(near) == 1 or np.mean(near[1]) > 0.9


@every_isa
@pytest.mark.parametrize("name", twin.FORMATS)
def test_a_row_reads_back_exactly_as_stored(name, isa, rng):
    k, n = 512, 35
    rows = twin.random_rows(name, n, k, rng)
    w = pack([(name, rows)], k, isa)
    expected = twin.weights(name, rows)
    out = np.empty((n, k), dtype=np.float32)
    w.rows(range(n), out)
    if name in {"q4_k", "q5_k", "q6_k"}:  # gguf multiplies in another order
        np.testing.assert_allclose(out, expected, rtol=3e-7, atol=1e-7)
    else:
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("to", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("name", twin.FORMATS)
def test_every_format_widens(name, to, rng):
    k = 256
    rows = twin.random_rows(name, 20, k, rng)
    w = pack([(name, rows)], k, native.best_isa(), widen=twin.FORMATS[to])
    stored = twin.weights(name, rows)
    expected = {
        "f32": lambda: stored,
        "f16": lambda: stored.astype(np.float16).astype(np.float32),
        "bf16": lambda: twin.from_bf16(twin.to_bf16(stored)),
    }[to]()
    out = np.empty((20, k), dtype=np.float32)
    w.rows(range(20), out)
    np.testing.assert_allclose(out, expected, rtol=2**-7 if to == "bf16" else 1e-3 if to == "f16" else 3e-7, atol=1e-7)
    assert w.kind == (1 if to == "bf16" else 0)


def test_widening_rounds_to_nearest_even_and_keeps_specials():
    values = np.array(
        [
            0.0,
            -0.0,
            1.0,
            1 + 2**-8,
            1 + 3 * 2**-8,
            65519.0,
            65520.0,
            1e-8,
            6e-8,
            9e-8,
            np.inf,
            -np.inf,
            np.nan,
            3.4e38,
            1e-40,
            -2.5,
        ],
        dtype=np.float32,
    )
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16).astype(np.float32)
    for to, expected in ((F16, halves), (BF16, twin.from_bf16(twin.to_bf16(values)))):
        w = native.pack([(F32, 1, values.view(np.uint8))], len(values), to, native.best_isa())
        out = np.empty((1, len(values)), dtype=np.float32)
        w.rows([0], out)
        np.testing.assert_array_equal(out[0], expected)


@every_isa
def test_quantized_formats_stack_into_one_matrix(isa, rng):
    """Q5_0 beside Q8_0 beside Q4_K, with parts that do not fill their last panel."""
    k = 256
    parts = [
        (name, twin.random_rows(name, n, k, rng)) for name, n in (("q5_0", 40), ("q8_0", 7), ("q4_k", 33), ("q6_k", 16))
    ]
    x = rng.normal(0, 1, (6, k)).astype(np.float32)
    w = pack(parts, k, isa)
    assert (w.n, w.blocks) == (96, 3 + 1 + 3 + 1)
    assert [w.block_column(b) for b in range(w.blocks + 1)] == [0, 16, 32, 40, 47, 63, 79, 80, 96]
    y = multiply(w, x, isa, threads=2)
    begin = 0
    out = np.empty((1, k), dtype=np.float32)
    for name, rows in parts:
        expected, tolerance = twin.product(name, rows, x)
        assert np.all(np.abs(y[:, begin : begin + len(rows)] - expected) <= tolerance)
        w.rows([begin], out)
        np.testing.assert_allclose(out[0], twin.weights(name, rows)[0], rtol=3e-7, atol=1e-7)
        begin += len(rows)


def test_what_stacks_is_what_shares_its_activations():
    number = twin.FORMATS
    assert native.stackable(number["q5_0"], number["q6_k"], -1)
    assert native.stackable(F32, F16, -1)
    assert not native.stackable(BF16, F32, -1)
    assert not native.stackable(BF16, number["q4_1"], -1)
    assert native.stackable(BF16, number["q4_1"], BF16)


@pytest.mark.parametrize("name", twin.QUANTIZED)
def test_packing_keeps_the_size_of_the_file(name, rng):
    k, n = 1536, 64
    rows = twin.random_rows(name, n, k, rng)
    assert pack([(name, rows)], k, 0).bytes <= rows.nbytes * 1.04


def test_threads_and_shares_of_blocks_do_not_change_the_result(rng):
    rows = twin.random_rows("q4_1", 576, 576, rng)
    isa = native.best_isa()
    w = pack([("q4_1", rows)], 576, isa)
    x = rng.normal(0, 1, (9, 576)).astype(np.float32)
    alone = multiply(w, x, isa)
    for threads in (2, 3, 5):
        np.testing.assert_array_equal(multiply(w, x, isa, threads), alone)


def test_errors_name_format_and_sizes():
    isa = native.best_isa()
    block = np.zeros(34, dtype=np.uint8)
    with pytest.raises(ValueError, match="row of 48 elements does not divide into q8_0 blocks of 32"):
        native.pack([(8, 1, block)], 48, -1, isa)
    with pytest.raises(ValueError, match="bf16 and q8_0 need different activations"):
        native.pack([(30, 1, np.zeros(64, dtype=np.uint8)), (8, 1, block)], 32, -1, isa)
    with pytest.raises(ValueError, match="format 99 is unknown"):
        native.pack([(99, 1, block)], 32, -1, isa)
    with pytest.raises(ValueError, match="widened to f32, f16 or bf16, not to format 8"):
        native.pack([(8, 1, block)], 32, 8, isa)
    with pytest.raises(ValueError, match="nothing to pack"):
        native.pack([], 32, -1, isa)
    with pytest.raises(ValueError, match="q8_0 has no rows"):
        native.pack([(8, 0, block)], 32, -1, isa)
    w = native.pack([(8, 1, block)], 32, -1, isa)
    with pytest.raises(ValueError, match="row 1 of a matrix of 1 rows"):
        w.rows([1], np.zeros((1, 32), dtype=np.float32))
    with pytest.raises(ValueError, match=r"x must be \[m, k\]"):
        native.multiply(w, np.zeros((1, 64), dtype=np.float32), np.zeros((1, 1), dtype=np.float32), 1, isa)
