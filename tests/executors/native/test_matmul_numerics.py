"""Hard values in packed products: rounding of activations, extreme scales, zeros, denormals, infinities."""

from __future__ import annotations

import matmul_twin as twin
import numpy as np
import pytest
from instruction_sets import every_isa

from octavo_engine.executors.native import _native as native


@pytest.fixture
def rng():
    return np.random.default_rng(6)


def product(name, rows, x, isa):
    k = x.shape[1]
    w = native.pack([(twin.FORMATS[name], len(rows), rows.reshape(-1))], k, -1, isa)
    y = np.full((len(x), len(rows)), np.nan, dtype=np.float32)
    native.multiply(w, np.ascontiguousarray(x, dtype=np.float32), y, 1, isa)
    return y


@every_isa
@pytest.mark.parametrize("name", twin.QUANTIZED)
def test_rounding_activations_to_int8_costs_less_than_one_percent(name, isa, rng):
    """Relative to the exact product with the same weights, over normal activations with a few outliers."""
    k = 1536
    rows = twin.random_rows(name, 64, k, rng)
    x = rng.normal(0, 1, (8, k)).astype(np.float32)
    x[:, ::97] *= 8
    exact = x.astype(np.float64) @ twin.weights(name, rows).astype(np.float64).T
    error = product(name, rows, x, isa) - exact
    assert np.sqrt((error**2).mean() / (exact**2).mean()) < 0.01


@every_isa
@pytest.mark.parametrize("name", twin.FORMATS)
def test_zeros_give_zeros(name, isa, rng):
    k = 256
    rows = twin.random_rows(name, 19, k, rng)
    assert np.all(product(name, rows, np.zeros((13, k)), isa) == 0)


@every_isa
@pytest.mark.parametrize("name", twin.FORMATS)
@pytest.mark.parametrize("size", [1e-42, 1e-37, 1e-30, 1e30])
def test_activations_of_extreme_size(name, isa, size, rng):
    """Below 1e-36 they may vanish; nothing overflows on the way."""
    k = 256
    rows = twin.random_rows(name, 19, k, rng)
    x = (rng.normal(0, 1, (3, k)) * size).astype(np.float32)
    expected, tolerance = twin.product(name, rows, x)
    y = product(name, rows, x, isa)
    assert np.all(np.isfinite(y))
    assert np.all(np.abs(y - expected) <= tolerance + k * 1e-36 * 40)


@every_isa
@pytest.mark.parametrize("name", twin.QUANTIZED)
@pytest.mark.parametrize("scale", [6e-8, 6e-5, 60000.0])
def test_extreme_scales_are_kept(name, isa, scale, rng):
    """Scales run from f16 denormals to its largest numbers, times the 6-bit scales of the K formats."""
    k = 256
    rows = twin.random_rows(name, 19, k, rng, scale=scale)
    x = rng.normal(0, 1, (5, k)).astype(np.float32)
    expected, tolerance = twin.product(name, rows, x)
    assert np.all(np.abs(product(name, rows, x, isa) - expected) <= tolerance)


@every_isa
@pytest.mark.parametrize("name", twin.FORMATS)
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_bad_row_spoils_only_itself(name, isa, bad, rng):
    """The request whose activations overflowed is lost, the others in its batch are not."""
    k = 256
    rows = twin.random_rows(name, 19, k, rng)
    x = rng.normal(0, 1, (6, k)).astype(np.float32)
    expected, tolerance = twin.product(name, rows, x)
    x[2, 100] = bad
    y = product(name, rows, x, isa)
    others = [0, 1, 3, 4, 5]
    assert np.all(np.abs(y - expected)[others] <= tolerance[others])
    assert not np.any(np.isfinite(y[2]))


@every_isa
@pytest.mark.parametrize("name", twin.QUANTIZED)
def test_codes_at_their_ends_do_not_saturate(name, isa, rng):
    """All bits set in every code, against activations of one sign: the largest sums there are."""
    k = 512
    rows = twin.random_rows(name, 16, k, rng)
    scales = rows.copy()
    size, offsets = twin._BLOCKS[name]
    blocks = np.full_like(rows, 0xFF).reshape(-1, size)
    for offset in offsets:
        blocks[:, offset : offset + 2] = scales.reshape(-1, size)[:, offset : offset + 2]
    if name == "q8_0":
        blocks[:, 2:] = 0x80  # -128
    rows = blocks.reshape(16, -1)
    for sign in (1, -1):
        x = np.full((4, k), sign, dtype=np.float32)
        expected, tolerance = twin.product(name, rows, x)
        assert np.all(np.abs(product(name, rows, x, isa) - expected) <= tolerance)
