"""A checkpoint generated from a spec: small random weights from a seed, norms that pass their input through.

For measuring and testing without a download. Tensors are made when they are read; the last one is kept.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.checkpoint import TensorInfo
from octavo_engine.weights.float_formats import to_format
from octavo_models.formats import FORMATS, nbytes
from octavo_models.spec import ModelSpec, Weight
from octavo_models.tensors import Source

SPREAD = 0.035  # uniform in ±SPREAD: a deviation of 0.02, as models are initialised

# Quantized blocks: the offsets of the f16 scale and of the f16 minimum, in bytes, and the largest value at a scale of 1.
BLOCKS = {
    "q4_0": (0, None, 8.0),
    "q4_1": (0, 2, 7.5),
    "q5_0": (0, None, 16.0),
    "q5_1": (0, 2, 15.5),
    "q8_0": (0, None, 127.0),
    "q4_k": (0, 2, 63 * 7.5),
    "q5_k": (0, 2, 63 * 15.5),
    "q6_k": (208, None, 127 * 32.0),
}
# A minimum that centres a block: subtracted by the K formats (beside 6-bit factors), added by the others.
CENTRES = {"q4_1": -7.5, "q5_1": -15.5, "q4_k": 7.5, "q5_k": 15.5}


class DummyCheckpoint:
    """Has the tensors of the checkpoint that `spec` was read from; the same spec and seed give the same bytes."""

    def __init__(self, spec: ModelSpec, seed: int = 0) -> None:
        self._seed = seed
        self._last: tuple[str, NDArray[np.uint8]] | None = None
        self._norm_value = 1.0 - (spec.final_norm.offset if spec.final_norm is not None else 0.0)
        self._weights: dict[str, Weight] = {}  # by tensor; of one that holds several weights, the first
        self.tensors: dict[str, TensorInfo] = {}
        for weight in spec.weights:
            for source in weight.sources:
                self._add(weight, source)

    def read(self, name: str, rows: tuple[int, int] | None = None) -> memoryview:
        weight = self._weights.get(name)
        if weight is None:
            raise ModelLoadError(f"dummy weights: there is no tensor {name}")
        if self._last is None or self._last[0] != name:  # its next rows are asked for next
            self._last = None
            self._last = (name, self._make(weight, self.tensors[name]))
        made = self._last[1]
        num_rows = self.tensors[name].num_rows
        return (made if rows is None else made.reshape(num_rows, -1)[rows[0] : rows[1]]).reshape(-1).data

    def close(self) -> None:
        self._last = None

    def _add(self, weight: Weight, source: Source) -> None:
        """Make the tensor of `source`, which may hold several weights."""
        shape = source.shape_of(weight.rows_in(source), *weight.stored_shape[1:])
        self._weights.setdefault(source.tensor, weight)
        self.tensors[source.tensor] = TensorInfo(
            source.tensor, weight.format, shape, Path("dummy"), 0, nbytes(weight.format, shape)
        )

    def _make(self, weight: Weight, tensor: TensorInfo) -> NDArray[np.uint8]:
        if weight.name.endswith("norm"):
            return to_format(np.full(tensor.shape, self._norm_value, np.float32), tensor.format)
        rng = np.random.default_rng([self._seed, zlib.crc32(weight.name.encode())])
        if tensor.format in BLOCKS:
            return _random_blocks(rng, tensor)
        values = rng.random(tensor.shape, np.float32)
        values -= 0.5
        values *= 2 * SPREAD
        return to_format(values, tensor.format)


def _random_blocks(rng: np.random.Generator, tensor: TensorInfo) -> NDArray[np.uint8]:
    f = FORMATS[tensor.format]
    scale_at, minimum_at, spread = BLOCKS[tensor.format]
    blocks = rng.integers(0, 256, (tensor.nbytes // f.bytes_per_block, f.bytes_per_block), np.uint8)
    scale = np.float16(SPREAD / spread)
    blocks[:, scale_at : scale_at + 2] = np.frombuffer(scale.tobytes(), np.uint8)
    if minimum_at is not None:
        minimum = np.float16(SPREAD / spread * CENTRES[tensor.format])
        blocks[:, minimum_at : minimum_at + 2] = np.frombuffer(minimum.tobytes(), np.uint8)
    return blocks
