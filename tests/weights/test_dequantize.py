"""Every stored format widens to the numbers that the gguf package gives."""

import gguf
import numpy as np
import pytest

from octavo_engine.weights.dequantize import dequantize
from octavo_engine.weights.float_formats import to_format
from octavo_models.formats import FORMATS

QUANTIZED = [name for name, f in FORMATS.items() if f.block_size > 1]


def random_rows(format_: str, rows: int, blocks: int) -> np.ndarray:
    """Any bytes are valid blocks but for their f16 scales, which must be finite for a comparison."""
    f = FORMATS[format_]
    rng = np.random.default_rng(7)
    data = rng.integers(0, 256, (rows * blocks, f.bytes_per_block), np.uint8)
    for at in {"q4_0": (0,), "q5_0": (0,), "q8_0": (0,), "q6_k": (208,)}.get(format_, (0, 2)):
        halves = rng.normal(0, 0.1, rows * blocks).astype(np.float16)
        data[:, at : at + 2] = halves.view(np.uint8).reshape(-1, 2)
    return data.reshape(rows, -1)


@pytest.mark.parametrize("format_", QUANTIZED)
def test_random_blocks_widen_as_the_gguf_package_widens_them(format_):
    data = random_rows(format_, 6, 3)
    expected = gguf.quants.dequantize(data, gguf.GGMLQuantizationType(FORMATS[format_].ggml_type))
    np.testing.assert_array_equal(dequantize(format_, data), expected)


@pytest.mark.parametrize("format_", ["f32", "f16", "bf16"])
def test_a_plain_format_comes_back_as_the_number_that_was_stored(format_):
    values = np.array([[0.0, 1.0, -2.5, 3.140625, 65504.0, -0.0]], np.float32)
    if format_ == "bf16":
        values[0, 4] = 65536.0
    np.testing.assert_array_equal(dequantize(format_, to_format(values, format_)), values)


def test_bfloat16_rounds_to_nearest_even_and_keeps_nan():
    values = np.array([[1.00390625, 1.01171875, np.nan, np.inf, 3.4e38]], np.float32)
    widened = dequantize("bf16", to_format(values, "bf16"))[0]
    assert widened[:2].tolist() == [1.0, 1.015625]
    assert np.isnan(widened[2])
    assert np.isinf(widened[3])
    assert np.isinf(widened[4])


def test_rows_keep_their_own_blocks():
    data = random_rows("q8_0", 4, 2)
    whole = dequantize("q8_0", data)
    assert whole.shape == (4, 64)
    for row in range(4):
        np.testing.assert_array_equal(dequantize("q8_0", data[row : row + 1])[0], whole[row])
