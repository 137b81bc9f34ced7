"""Products with packed weights are those of the weights widened; the packing is what it says."""

from __future__ import annotations

import pytest
import torch
from kernel_parity import TOLERANCES

from octavo_engine.errors import ExecutorError
from octavo_engine.kernels.packing import PACKERS, pack_blocks
from octavo_engine.kernels.reference_operations import ReferenceOperations
from octavo_engine.kernels.reference_quantized import quantize, quantize_float8, unpack
from octavo_engine.kernels.triton.launch import Card, Launcher
from octavo_engine.kernels.triton.operations import TritonOperations
from octavo_engine.kernels.triton.packed_matmul import parts_of, rows_of_tile
from octavo_models.formats import FORMATS, packed_nbytes

REFERENCE = ReferenceOperations()
# Where the blocks of a format keep their float16s.
HALVES = {name: (0, 2) if name in {"q4_1", "q5_1", "q4_k", "q5_k"} else (0,) for name in PACKERS} | {"q6_k": (208,)}
SHAPES = [(1, 96, 576), (17, 130, 64), (70, 33, 160), (16, 64, 1536)]  # rows, out, in


def assert_product_close(got, expected, in_features):
    """Sums of `in_features` products: errors grow with the root of their number."""
    tolerance = TOLERANCES[expected.dtype]
    scale = in_features**0.5
    torch.testing.assert_close(got, expected, atol=tolerance["atol"] * scale / 4, rtol=tolerance["rtol"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("bits", "group"), [(4, 32), (8, 32), (8, 16)])
@pytest.mark.parametrize(("rows", "out", "columns"), SHAPES)
def test_products_with_packed_weights_are_the_twins(triton_operations, device, dtype, bits, group, rows, out, columns):
    x = torch.randn(rows, columns, device=device).to(dtype)
    bias = torch.randn(out, device=device).to(dtype)
    weight = quantize(torch.randn(out, columns, device=device), bits=bits, group=group)
    for added in (None, bias):
        got = triton_operations.matmul(x, weight, added)
        assert got.dtype == dtype
        assert_product_close(got, REFERENCE.matmul(x, weight, added), columns)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "out", "columns"), SHAPES)
def test_products_in_float8_are_the_twins(triton_operations, device, dtype, rows, out, columns):
    if triton_operations.launch.card.capability < 89:
        pytest.skip("this GPU has no float8")
    x = torch.randn(rows, columns, device=device).to(dtype)
    weight, bias = quantize_float8(torch.randn(out, columns, device=device)), torch.randn(out, device=device).to(dtype)
    got, expected = triton_operations.matmul(x, weight, bias), REFERENCE.matmul(x, weight, bias)
    if device.type == "cuda" and triton_operations.launch.card.capability == 90:  # sums of 128 products have 13 bits
        torch.testing.assert_close(got, expected, atol=2**-10 * columns**0.5, rtol=2**-7)
    else:
        assert_product_close(got, expected, columns)


@pytest.mark.parametrize(
    ("columns", "rows", "parts"), [(4096, 1, 4), (28672, 1, 1), (8448, 16, 2), (64, 40, 2), (64, 200, 1)]
)
def test_k_is_split_only_as_far_as_the_columns_leave_sms_idle(columns, rows, parts):
    """On 132 SMs; by the weight and the size of a tile, so that no step asks for a kernel of its own."""
    launcher = Launcher(Card(90, 132))
    chosen = launcher.parameters(f"packed.{rows_of_tile(rows)}")
    assert parts_of(launcher, chosen, columns) == parts


def test_plain_products_are_left_to_torch(triton_operations, device):
    x, weight = torch.randn(3, 8, device=device), torch.randn(5, 8, device=device)
    assert torch.equal(triton_operations.matmul(x, weight), REFERENCE.matmul(x, weight))


@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_weights_are_within_half_a_step(bits):
    weight = torch.randn(7, 64)
    packed = quantize(weight, bits=bits, scale_dtype=torch.float32)
    step = packed.scales.repeat_interleave(32, 1)
    assert ((unpack(packed) - weight).abs() <= 0.501 * step).all()
    assert packed.shape == (7, 64)
    assert packed.quants.nbytes == 7 * 64 * bits // 8


@pytest.mark.parametrize("name", PACKERS)
def test_packed_blocks_are_the_numbers_of_the_file(name):
    """To the bit of float32, for every format; four bits stay four bits."""
    np = pytest.importorskip("numpy")
    from octavo_engine.weights.dequantize import dequantize

    form = FORMATS[name]
    data = torch.randint(0, 256, (3, 2 * form.bytes_per_block), dtype=torch.uint8)
    for at in HALVES[name]:  # floats of a size that doesn't overflow
        half = torch.rand(6).half().view(torch.uint8).reshape(6, 2)
        data.view(6, -1)[:, at : at + 2] = half
    packed = pack_blocks(name, data)
    assert packed.bits == (4 if "4" in name else 8)
    assert packed.shape == (3, 2 * form.block_size)
    assert packed.nbytes == packed_nbytes(name, packed.shape)
    assert np.array_equal(dequantize(name, data.numpy()), unpack(packed).numpy())


def test_float8_is_refused_on_older_cards_with_the_reason():
    operations = TritonOperations(Launcher(Card(86, 82)))
    with pytest.raises(ExecutorError, match=r"a matrix product in float8 needs .* 8.9 or newer; this GPU has 8.6"):
        operations.matmul(torch.zeros(1, 16), quantize_float8(torch.ones(16, 16)))
