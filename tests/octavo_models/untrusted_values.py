"""Values that stand in for any, and all that is asked of a spec, for tests of what untrusted configs can do."""

from __future__ import annotations

from hypothesis import strategies as st

from octavo_models import ModelSpec

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=5,
)
NUMBERS = st.sampled_from(
    [-1, 0, 1, 2, 3, 7, 64, 2**31, 2**64, 0.5, 1e-300, 1e300, float("nan"), float("inf"), "8", True]
)


def exercise(spec: ModelSpec) -> None:
    """Everything that a planner or executor asks of a spec."""
    spec.weight_bytes()
    spec.weight_bytes("bfloat16")
    spec.kv_bytes(4096, "bf16")
    for layer in spec.layers[:2]:
        rotary = layer.attention.rotary
        if rotary is not None:
            assert len(rotary.inverse_frequencies()) == rotary.dim // 2
            rotary.attention_factor()
