"""Packing weights: by any number of threads, and with too little memory."""

from __future__ import annotations

import numpy as np
import pytest

from octavo_engine.executors.native import _native

Q8_0 = 8


def test_threads_do_not_change_what_is_packed():
    """One, two or five: the same rows."""
    rng, k = np.random.default_rng(1), 96
    data = rng.normal(0, 1, (83, k)).astype(np.float32)
    outs = []
    for threads in (1, 2, 5):
        w = _native.pack([(0, 83, data.view(np.uint8).reshape(-1))], k, threads=threads)
        outs.append(np.empty((83, k), np.float32))
        w.rows(range(83), outs[-1])
    for out in outs:
        np.testing.assert_array_equal(out, data)


def test_too_little_memory_is_a_memory_error():
    """What a matrix would take that no machine has."""
    with pytest.raises(MemoryError):
        _native.pack([(Q8_0, 1 << 50, np.zeros(34, np.uint8))], 32)
