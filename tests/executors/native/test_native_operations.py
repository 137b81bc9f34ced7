"""Norms, residuals, activations and logits: each equals its numpy twin, at sizes that fill no whole vector too."""

from __future__ import annotations

import numpy as np
import pytest
from decoder_twin import ACTIVATIONS, xielu
from instruction_sets import every_isa_of_operations

from octavo_engine.executors.native import _native, model

SIZES = [1, 2, 7, 8, 15, 16, 17, 33, 64, 100, 576, 1037]


@pytest.fixture
def rng():
    return np.random.default_rng(2)


def normed(x, weight, kind, eps, offset, bias):
    x = x.astype(np.float64)
    if kind == "layer":
        x = x - x.mean()
    y = x / np.sqrt((x * x).mean() + eps) * (weight + offset)
    return y if bias is None else y + bias


def native_norm(kind, eps, offset):
    norm = _native.Norm()
    norm.present, norm.kind, norm.eps, norm.offset = True, {"rms": 0, "layer": 1}[kind], eps, offset
    return norm


@every_isa_of_operations
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_norm(isa, size, kind, with_bias, rng):
    """RMSNorm and LayerNorm with offset, eps and bias."""
    x, weight, bias = rng.standard_normal((3, size)).astype(np.float32)
    bias = bias if with_bias else None
    out = np.full(size, np.nan, np.float32)
    _native.norm(isa, x, native_norm(kind, 1e-5, 1.0), weight, bias, out)
    np.testing.assert_allclose(out, normed(x, weight, kind, 1e-5, 1.0, bias), rtol=2e-5, atol=1e-5)


@every_isa_of_operations
@pytest.mark.parametrize("size", SIZES)
def test_residual_is_added_after_bias_norm_and_factor(isa, size, rng):
    """x + factor * norm(a + bias), as models with a norm behind attention have it."""
    x, a, bias, weight = rng.standard_normal((4, size)).astype(np.float32)
    expected = x + 0.25 * normed(a + bias, weight, "rms", 1e-6, 0.0, None)
    _native.add_residual(isa, x, a, bias, 0.25, native_norm("rms", 1e-6, 0.0), weight)
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-5)


@every_isa_of_operations
@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("gated", [False, True])
def test_activation(isa, kind, gated, rng):
    """Every nonlinearity, gated or not, over small and large values."""
    for size in SIZES:
        gate = (rng.standard_normal(size) * 6).astype(np.float32)
        gate[:2] = [80.0, -80.0][: min(size, 2)]
        up = rng.standard_normal(size).astype(np.float32)
        out = np.full(size, np.nan, np.float32)
        _native.activate(isa, model.ACTIVATIONS[kind], gate, up if gated else None, out)
        expected = ACTIVATIONS[kind](gate.astype(np.float64)) * (up if gated else 1.0)
        np.testing.assert_allclose(out, expected, rtol=2e-6, atol=3e-6)


@every_isa_of_operations
@pytest.mark.parametrize("gated", [False, True])
def test_xielu(isa, gated, rng):
    """With the two factors that a layer has learned, on both sides of zero and close to it."""
    x = np.concatenate([rng.standard_normal(90) * 4, [0.0, 1e-7, -1e-7, -1e-5, -80.0, 9.0]]).astype(np.float32)
    up, out = rng.standard_normal(len(x)).astype(np.float32), np.full(len(x), np.nan, np.float32)
    above, below = np.log1p(np.exp([0.3, -1.1]))
    _native.activate(isa, model.ACTIVATIONS["xielu"], x, up if gated else None, out, above, 0.5 + below)
    expected = xielu(x.astype(np.float64), 0.3, -1.1) * (up if gated else 1.0)
    np.testing.assert_allclose(out, expected, rtol=2e-6, atol=3e-6)


@every_isa_of_operations
def test_clamped_swiglu(isa, rng):
    """Both halves beyond their bounds: the gate above 7, the other above 7 and below -7."""
    gate, up = (rng.standard_normal((2, 100)) * 6).astype(np.float32)
    out = np.full(100, np.nan, np.float32)
    _native.activate(isa, model.ACTIVATIONS["swiglu_clamped"], gate, up, out)
    expected = ACTIVATIONS["quick_gelu"](np.minimum(gate, 7).astype(np.float64)) * (np.clip(up, -7, 7) + 1)
    np.testing.assert_allclose(out, expected, rtol=2e-6, atol=3e-6)


@every_isa_of_operations
@pytest.mark.parametrize("kind", model.ACTIVATIONS)
@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFFFFFFF])
def test_nan_stays_nan_in_every_operation(isa, kind, bits, rng):
    """Wherever it stands in the row: of activations and capped logits its own element, of a norm all."""
    for size in SIZES:
        for at in {0, size // 2, size - 1}:
            x = rng.standard_normal(size).astype(np.float32)
            x.view(np.uint32)[at] = bits
            out = np.zeros(size, np.float32)
            up = np.ones(size, np.float32)
            _native.activate(isa, model.ACTIVATIONS[kind], x, up, out, 0.5, 0.5)
            np.testing.assert_array_equal(np.isnan(out), np.isnan(x))
            if kind != "xielu":
                _native.activate(isa, model.ACTIVATIONS[kind], up, x, out)
                np.testing.assert_array_equal(np.isnan(out), np.isnan(x))
            _native.norm(isa, x, native_norm("rms", 1e-5, 0.0), np.ones(size, np.float32), None, out)
            assert np.isnan(out).all()
            capped = x.copy()
            _native.finish_logits(isa, capped, 0.5, 30.0)
            np.testing.assert_array_equal(np.isnan(capped), np.isnan(x))


@every_isa_of_operations
@pytest.mark.parametrize("soft_cap", [0.0, 30.0])
def test_logits_are_scaled_then_capped(isa, soft_cap, rng):
    """`cap * tanh(multiplier * x / cap)`."""
    x = (rng.standard_normal(1037) * 40).astype(np.float32)
    expected = x.astype(np.float64) * 0.5
    if soft_cap:
        expected = soft_cap * np.tanh(expected / soft_cap)
    _native.finish_logits(isa, x, 0.5, soft_cap)
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=5e-6)
