"""Rows looked up in a step, where denormals are zero, equal the format's reference, whatever the size of its scales."""

from __future__ import annotations

import matmul_twin as twin
import numpy as np
import pytest
from instruction_sets import every_isa

from octavo_engine.executors.native import _native

SCALES = [10.0**-e for e in range(8)]  # below 6.1e-5 a scale in half precision is subnormal


@every_isa
@pytest.mark.parametrize("name", twin.FORMATS)
def test_scales_from_one_to_1e_7_are_read_in_a_step(name, isa, record_property):
    """Looked up by two threads of a team, as embeddings are, and multiplied: both in every size that a scale may have."""
    rng, k, n = np.random.default_rng(3), 512, 40
    largest = 0.0
    for scale in SCALES:
        rows = twin.random_rows(name, n, k, rng, scale)
        expected = twin.weights(name, rows)
        assert np.abs(expected).max() > scale / 10
        w = _native.pack([(twin.FORMATS[name], n, rows.reshape(-1))], k, isa=isa)
        out = np.empty((n, k), np.float32)
        w.rows(range(n), out, threads=2)
        largest = max(largest, float(np.abs(out - expected).max() / np.abs(expected).max()))

        x = rng.normal(0, 1, (5, k)).astype(np.float32)
        y = np.empty((5, n), np.float32)
        _native.multiply(w, x, y, 2, isa)
        product, tolerance = twin.product(name, rows, x)
        np.testing.assert_array_less(np.abs(y - product), tolerance)
    record_property("embedding", (name, next(n for n, number in _native.ISAS.items() if number == isa), largest))
    assert largest == 0


def test_every_half_is_converted_exactly_in_a_step():
    """All 65,536 of them, looked up as rows of f16: subnormals, infinities and NaN too."""
    halves = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    w = _native.pack([(twin.FORMATS["f16"], 256, halves.view(np.uint8).reshape(-1))], 256)
    out = np.empty((256, 256), np.float32)
    w.rows(range(256), out, threads=2)
    np.testing.assert_array_equal(out, halves.view(np.float16).astype(np.float32))
