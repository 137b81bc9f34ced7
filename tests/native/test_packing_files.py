"""Packing weights from files: what other processes do to them meanwhile, and too little memory."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from octavo_engine.executors.native import _native

Q8_0 = 8


def test_a_file_that_is_truncated_while_it_is_packed_is_an_error(tmp_path):
    """Not a signal that ends the process without a word. In a process of its own, in case it is one."""
    path = tmp_path / "weights"
    program = f"""
import os
import numpy as np
from octavo_engine.executors.native import _native
rows = np.memmap({str(path)!r}, np.uint8, "r")
os.truncate({str(path)!r}, 34 * 64 * 100)
_native.pack([({Q8_0}, 1024, rows)], 64 * 32, threads=2)
"""
    path.write_bytes(bytes(34 * 64 * 1024))
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 1, run
    assert "RuntimeError: a file of weights became shorter while it was read" in run.stderr


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
