"""The places to which the bytes of weights are read."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.weight_file import WeightFile


@pytest.fixture
def file(tmp_path):
    (tmp_path / "weights").write_bytes(bytes(16 << 20))
    file = WeightFile(tmp_path / "weights")
    yield file
    file.close()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells how much memory is shared")
def test_weights_are_read_into_memory_of_the_process_alone(file):
    """Shared memory has no huge pages by default, and takes five times as long to hand out."""

    def shared() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssShmem"))  # KiB

    before = shared()
    data = file.read(0, file.size)
    assert data.nbytes == 16 << 20
    assert shared() - before < 1024


def test_a_disk_that_fails_is_said_in_one_sentence(file):
    """Wherever it fails: the header is read by itself."""

    def fail(_stream: BinaryIO) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(ModelLoadError, match="weights: it can't be read: Input/output error"):
        file.header(fail)


def test_a_tensor_that_no_memory_can_hold_is_said_in_one_sentence(file):
    """The sentence names the file it lies in."""
    with pytest.raises(ModelLoadError, match="weights: 140,737,488,355,328 bytes of memory are needed"):
        file.read(0, 1 << 47)
