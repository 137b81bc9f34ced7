"""Products with packed weights are those of the weights widened; the packing is what it says."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace

import pytest
import torch
from kernel_parity import TOLERANCES

from octavo_engine.errors import ExecutorError
from octavo_engine.kernels import packing
from octavo_engine.kernels.packed_weight import from_words, to_words
from octavo_engine.kernels.packing import PACKERS, pack_blocks
from octavo_engine.kernels.reference_operations import ReferenceOperations
from octavo_engine.kernels.reference_quantized import quantize, quantize_float8, scales_of, unpack, widen
from octavo_engine.kernels.triton import packed_matmul
from octavo_engine.kernels.triton.launch import Gpu, Launcher
from octavo_engine.kernels.triton.operations import TritonOperations
from octavo_engine.kernels.triton.packed_matmul import parts_bytes, parts_of, rows_of_tile
from octavo_models.formats import FORMATS, packed_nbytes

REFERENCE = ReferenceOperations()
# Where the blocks of a format keep their float16s.
HALVES = {name: (0, 2) if name in {"q4_1", "q5_1", "q4_k", "q5_k"} else (0,) for name in PACKERS} | {"q6_k": (208,)}
SHAPES = [(1, 96, 576), (17, 130, 64), (70, 33, 160), (16, 64, 1536)]  # rows, out, in


# Around the sizes of tiles, and rows as long as those of Llama-3-8B.
EDGES = [(63, 33, 64), (64, 33, 64), (65, 64, 96), (128, 130, 64), (129, 130, 64), (2, 40, 4096), (2, 16, 14336)]


def assert_product_close(got, expected, in_features):
    """Sums of `in_features` products: errors grow with the root of their number."""
    tolerance = TOLERANCES[expected.dtype]
    scale = in_features**0.5
    torch.testing.assert_close(got, expected, atol=tolerance["atol"] * scale / 4, rtol=tolerance["rtol"])


@pytest.mark.sample(dtype=[torch.bfloat16])
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


@pytest.mark.sample(bits=[4], rows=[65, 129])
@pytest.mark.sample(bits=[4], columns=[14336])
@pytest.mark.parametrize(("bits", "group"), [(4, 32), (8, 32), (8, 16)])
@pytest.mark.parametrize(("rows", "out", "columns"), EDGES)
def test_products_at_the_edges_of_tiles_and_of_long_rows_are_the_twins(
    triton_operations, device, bits, group, rows, out, columns
):
    x = torch.randn(rows, columns, device=device).bfloat16()
    weight = quantize(torch.randn(out, columns, device=device), bits=bits, group=group)
    assert_product_close(triton_operations.matmul(x, weight), REFERENCE.matmul(x, weight), columns)


def test_rows_that_end_within_a_run_of_words_are_no_packed_weight(triton_operations, device):
    weight = quantize(torch.randn(5, 48, device=device), bits=8, group=16)
    with pytest.raises(AssertionError, match="rows of 48 elements"):
        triton_operations.matmul(torch.randn(3, 48, device=device), weight)


@pytest.mark.sample(dtype=[torch.bfloat16], columns=[64, 160, 576])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "out", "columns"), [*SHAPES, *EDGES])
def test_products_in_float8_are_the_twins(triton_operations, device, dtype, rows, out, columns):
    if triton_operations.launch.gpu.capability < 89:
        pytest.skip("this GPU has no float8")
    x = torch.randn(rows, columns, device=device).to(dtype)
    weight, bias = quantize_float8(torch.randn(out, columns, device=device)), torch.randn(out, device=device).to(dtype)
    got, expected = triton_operations.matmul(x, weight, bias), REFERENCE.matmul(x, weight, bias)
    if device.type == "cuda" and triton_operations.launch.gpu.capability == 90:  # sums of 128 products have 13 bits
        torch.testing.assert_close(got, expected, atol=2**-10 * columns**0.5, rtol=2**-7)
    else:
        assert_product_close(got, expected, columns)


@pytest.mark.parametrize(
    ("columns", "rows", "parts"),
    [(4096, 1, 4), (28672, 1, 1), (8448, 16, 2), (64, 40, 2), (64, 200, 4), (28672, 200, 2), (64, 257, 1)],
)
def test_k_is_split_only_as_far_as_the_columns_leave_sms_idle(columns, rows, parts):
    """On 132 SMs; by the weight and the size of a tile, so that no step asks for a kernel of its own."""
    launcher = Launcher(Gpu(90, 132))
    chosen = launcher.parameters(f"packed.{rows_of_tile(rows)}")
    assert parts_of(launcher, chosen, columns, rows) == parts
    assert parts_bytes(launcher, columns, 8192) >= (4 * parts * rows * columns if parts > 1 else 0)


def test_plain_products_are_left_to_torch(triton_operations, device):
    x, weight = torch.randn(3, 8, device=device), torch.randn(5, 8, device=device)
    assert torch.equal(triton_operations.matmul(x, weight), REFERENCE.matmul(x, weight))


def blocks_of(name, rows, num_blocks):
    """Random blocks of a format [rows, bytes]; their float16s are of a size that doesn't overflow."""
    form = FORMATS[name]
    data = torch.randint(0, 256, (rows, num_blocks * form.bytes_per_block), dtype=torch.uint8)
    for at in HALVES[name]:
        half = (torch.rand(rows * num_blocks) / 100).half().view(torch.uint8).reshape(-1, 2)
        data.view(rows * num_blocks, -1)[:, at : at + 2] = half
    return data


@pytest.mark.sample(dtype=[torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", PACKERS)
def test_products_with_blocks_of_every_format_are_the_twins(triton_operations, device, name, dtype):
    """In whole, and cut inside of super blocks as for ranks; beside a tile's end in every direction."""
    whole = pack_blocks(name, blocks_of(name, 67, 2 if "k" in name else 11)).map(lambda t: t.to(device))
    for weight in (whole, whole.columns(32, 320), whole.columns(128, 256)):
        x = torch.randn(3, weight.shape[1], device=device).to(dtype)
        bias = torch.randn(67, device=device).to(dtype)
        assert_product_close(triton_operations.matmul(x, weight, bias), REFERENCE.matmul(x, weight, bias), x.shape[1])


@pytest.mark.parametrize("name", ["q4_1", "q4_k", "q6_k"])
def test_a_scale_that_is_no_number_spoils_its_own_column_alone(triton_operations, device, name):
    data = blocks_of(name, 9, 2)
    halves = torch.tensor([torch.nan, torch.inf]).half().view(torch.uint8).reshape(2, 2)
    at = HALVES[name][0]
    data[2, at : at + 2], data[5, at : at + 2] = halves[0], halves[1]
    weight = pack_blocks(name, data).map(lambda t: t.to(device))
    x = torch.randn(4, weight.shape[1], device=device).bfloat16()
    got, expected = triton_operations.matmul(x, weight), REFERENCE.matmul(x, weight)
    spoilt = torch.tensor([column in {2, 5} for column in range(9)], device=device)
    assert torch.equal(got.isfinite().all(0), ~spoilt)
    assert torch.equal(expected.isfinite().all(0), ~spoilt)
    assert_product_close(got[:, ~spoilt], expected[:, ~spoilt], weight.shape[1])


@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_weights_are_within_half_a_step(bits):
    weight = torch.randn(7, 64)
    packed = quantize(weight, bits=bits)
    step = scales_of(packed)[0].T.repeat_interleave(32, 1)
    assert ((unpack(packed) - weight).abs() <= (0.51 if bits == 4 else 0.57) * step + 2**-10).all(), "in float16"
    assert packed.shape == (7, 64)
    assert packed.quants.nbytes == 7 * 64 * bits // 8


@pytest.mark.parametrize("bits", [4, 8])
def test_words_hold_what_a_thread_takes_of_a_run_of_sixteen(bits):
    """Elements 2w, 2w + 1, 2w + 8 and 2w + 9, those of the next run beside them where four bits leave room."""
    words = to_words(torch.arange(32).to(torch.uint8).view(1, 32) % 16, bits)[0].tolist()
    taken = [{word >> at & 2**bits - 1 for at in range(0, 32, bits)} for word in words]
    assert taken[: 4 if bits == 4 else 8] == [{2 * w, 2 * w + 1, 2 * w + 8, 2 * w + 9} for w in range(4)] * (bits // 4)
    numbers = torch.randint(0, 2**bits, (5, 96), dtype=torch.uint8)
    assert torch.equal(from_words(to_words(numbers, bits), bits), numbers)


@pytest.mark.parametrize("name", PACKERS)
def test_packed_blocks_are_the_numbers_of_the_file(name, monkeypatch):
    """The numbers are equal to the bit of float32, for every format, however many rows are packed at once; four bits
    stay four bits.
    """
    np = pytest.importorskip("numpy")
    from octavo_engine.weights.dequantize import dequantize

    data = blocks_of(name, 3, 2)
    packed = pack_blocks(name, data)
    assert packed.bits == (4 if "4" in name else 8)
    assert packed.shape == (3, 2 * FORMATS[name].block_size)
    assert packed.nbytes == packed_nbytes(name, packed.shape)
    assert np.array_equal(dequantize(name, data.numpy()), unpack(packed).numpy())
    monkeypatch.setattr(packing, "ELEMENTS_AT_ONCE", 2 * packed.shape[1])
    again = pack_blocks(name, data)
    assert torch.equal(unpack(again), unpack(packed))
    assert again.nbytes == packed.nbytes


@pytest.mark.parametrize("name", PACKERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_products_multiply_by_is_near_the_numbers_of_the_file(name, dtype):
    """The distance is the one that `widen` states: four bits are scaled in 16 bits, eight are rounded once."""
    packed = pack_blocks(name, blocks_of(name, 40, 4))
    scales, minima = (None if x is None else x.T[..., None] for x in scales_of(packed))
    exact = unpack(packed)
    unit = torch.finfo(dtype).eps / 2
    bound = exact.abs()
    if packed.bits == 4:
        centre = torch.zeros_like(scales) if minima is None else minima + 8 * scales
        bound = bound.view(40, -1, packed.group) + centre.abs()
        bound = (bound + (exact.view(bound.shape) - centre).abs()).flatten(1)
    smallest = torch.finfo(dtype).smallest_normal
    assert ((widen(packed, dtype).float() - exact).abs() <= unit * 1.01 * bound + smallest).all()


def executed(asm, dtype, inputs):
    """The $0 of inline assembly of moves and of multiply-adds of two halves. inputs: $1 …: [n, 2] of dtype."""
    held = {f"${i}": x.double() for i, x in enumerate(inputs, 1)}
    kind = {torch.bfloat16: "bf16", torch.float16: "f16"}[dtype]
    for name, operands in re.findall(r"^\s*([a-z0-9.]+) ([^;]*);", asm, re.MULTILINE):
        target, *sources = [part.strip() for part in operands.split(",")]
        if name == "mov.b32":
            bits = int(sources[0], 16) & 0xFFFFFFFF
            words = torch.tensor([bits - (1 << 32) if bits >> 31 else bits], dtype=torch.int32)
            held[target] = words.view(dtype).double()
        elif name == f"fma.rn.{kind}x2":
            a, b, c = (held[source] for source in sources)
            held[target] = (a * b + c).to(dtype).double()  # exact before it is rounded
        else:
            assert name == ".reg.b32" or operands.startswith(".b32"), name
    return held["$0"].to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_instructions_of_two_halves_are_what_is_interpreted(dtype):
    """No interpreter runs them: their text is executed here, over all pairs of numbers, against `widen`."""
    source = inspect.getsource(packed_matmul.scaled_twice.fn)
    asm = source.split('"""')[3 if dtype == torch.bfloat16 else 5]
    weight = quantize(torch.randn(64, 32), bits=4)
    weight = replace(weight, quants=torch.arange(256, dtype=torch.uint8).repeat(4).view(torch.int32).view(64, 4))
    scale, minimum = scales_of(weight)
    stored = from_words(weight.quants, 4)
    magic = (stored + (128 if dtype == torch.bfloat16 else 1024.0)).to(dtype)
    pairs = magic.view(-1, 2)
    scales, centres = (x.T.expand(64, 32).reshape(-1, 2).to(dtype) for x in (scale, minimum + 8 * scale))
    assert torch.equal(executed(asm, dtype, [pairs, scales, centres]).view(64, 32), widen(weight, dtype))


def test_float8_is_refused_on_older_gpus_with_the_reason():
    operations = TritonOperations(Launcher(Gpu(86, 82)))
    with pytest.raises(ExecutorError, match=r"a matrix product in float8 needs .* 8.9 or newer; this GPU has 8.6"):
        operations.matmul(torch.zeros(1, 16), quantize_float8(torch.ones(16, 16)))
