"""A checkpoint made up from a spec: deterministic small random weights, norms that pass their input through.

For measuring and testing without a download. Tensors are made when they are read; the last one is kept.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.checkpoint import TensorInfo
from octavo_engine.weights.float_formats import to_format
from octavo_models.formats import FORMATS, nbytes
from octavo_models.spec import ModelSpec, Weight

SPREAD = 0.035  # uniform in ±SPREAD: a deviation of 0.02, as models are initialised

# Quantized blocks: where their f16 scale lies (in bytes), where the f16 minimum, and what a scale of 1 spreads over.
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
    """Looks like the checkpoint that `spec` was read from; the same spec and seed give the same bytes."""

    def __init__(self, spec: ModelSpec, seed: int = 0) -> None:
        self._seed = seed
        self._last: tuple[str, NDArray[np.uint8]] | None = None
        self._norm_value = 1.0 - spec.final_norm.offset
        self._weights = {weight.sources[0]: weight for weight in spec.weights}
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(name, w.format, w.shape, Path("dummy"), 0, nbytes(w.format, w.shape))
            for name, w in self._weights.items()
        }

    def read(self, name: str, rows: tuple[int, int] | None = None) -> memoryview:
        weight = self._weights.get(name)
        if weight is None:
            raise ModelLoadError(f"dummy weights: there is no tensor {name}")
        if self._last is None or self._last[0] != name:  # its next rows are asked for next
            self._last = None
            self._last = (name, self._make(weight))
        made = self._last[1]
        return (made if rows is None else made.reshape(weight.shape[0], -1)[rows[0] : rows[1]]).reshape(-1).data

    def close(self) -> None:
        self._last = None

    def _make(self, weight: Weight) -> NDArray[np.uint8]:
        if weight.name.endswith("norm"):
            return to_format(np.full(weight.shape, self._norm_value, np.float32), weight.format)
        rng = np.random.default_rng([self._seed, zlib.crc32(weight.name.encode())])
        if weight.format in BLOCKS:
            return _random_blocks(rng, weight)
        values = rng.random(weight.shape, np.float32)
        values -= 0.5
        values *= 2 * SPREAD
        return to_format(values, weight.format)


def _random_blocks(rng: np.random.Generator, weight: Weight) -> NDArray[np.uint8]:
    f = FORMATS[weight.format]
    scale_at, minimum_at, spread = BLOCKS[weight.format]
    blocks = rng.integers(0, 256, (weight.nbytes // f.bytes_per_block, f.bytes_per_block), np.uint8)
    scale = np.float16(SPREAD / spread)
    blocks[:, scale_at : scale_at + 2] = np.frombuffer(scale.tobytes(), np.uint8)
    if minimum_at is not None:
        minimum = np.float16(SPREAD / spread * CENTRES[weight.format])
        blocks[:, minimum_at : minimum_at + 2] = np.frombuffer(minimum.tobytes(), np.uint8)
    return blocks
