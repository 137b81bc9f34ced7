"""Quantities are Kubernetes' own, and exact."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from octavo_testing.properties import tried
from pydantic_core import PydanticCustomError

from octavo_operator.api.quantity import BINARY, DECIMAL, Quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("16Gi", 16 * 1024**3),
        ("500m", Fraction(1, 2)),
        ("1e3", 1000),
        ("1E3", 1000),
        ("2E", 2 * 10**18),
        ("1.5Ki", 1536),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        ("100u", Fraction(1, 10_000)),
        ("12e-1", Fraction(12, 10)),
        ("0", 0),
    ],
)
def test_a_quantity_has_kubernetes_value(text, value):
    assert Quantity(text).value == value


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("16GB", "16G"),
        ("16GiB", "16Gi"),
        ("4 Gi", "4Gi"),
        ("100MB", "100M"),
        ("8gb", "8G"),
        ("8gi", "8Gi"),
        ("2K", "2k"),
    ],
)
def test_a_common_slip_is_reported_with_what_was_meant(text, meant):
    with pytest.raises(ValueError, match=f"did you mean {meant}"):
        Quantity(text)


@pytest.mark.parametrize("text", ["", "Gi", "1..2", "1Gi2", "0x10", "1e", "--1", "١"])  # noqa: RUF001
def test_what_is_no_quantity_is_refused(text):
    with pytest.raises(ValueError, match="not a quantity"):
        Quantity(text)


@pytest.mark.parametrize("value", [True, None, [], -1, "-5"])
def test_a_manifest_takes_no_other_type_and_nothing_negative(value):
    with pytest.raises(PydanticCustomError):
        Quantity.parse(value)


@pytest.mark.parametrize(("value", "text"), [(4, "4"), (2.0, "2.0"), (1e3, "1000.0")])
def test_a_bare_whole_number_of_yaml_is_a_quantity(value, text):
    assert str(Quantity.parse(value)) == text


@pytest.mark.parametrize("value", [0.5, 1.5, 1e-07])
def test_a_bare_fraction_is_refused_as_the_api_server_refuses_it(value):
    """The API server takes `cpu: 0.5` for a Pod, but for no custom resource: in quotes it is right for both."""
    with pytest.raises(PydanticCustomError, match=f'needs quotes.*"{value}"'):
        Quantity.parse(value)


@given(st.integers(0, 7), st.sampled_from(sorted(BINARY)))
@tried(60)
def test_binary_suffixes_are_exact(number, suffix):
    assert int(Quantity(f"{number}{suffix}")) == number * BINARY[suffix]


@given(st.decimals(0, 9, places=6), st.sampled_from(sorted(DECIMAL)))
@tried(60)
def test_decimal_suffixes_are_exact(number, suffix):
    assert Quantity(f"{number:f}{suffix}").value == Fraction(number) * Fraction(10) ** DECIMAL[suffix]


@given(st.integers(0, 2**60))
@tried(60)
def test_bytes_come_back_as_they_were(count):
    assert int(Quantity.of_bytes(count)) == count


@given(st.integers(0, 10**6), st.integers(0, 10**6))
@tried(60)
def test_order_and_equality_go_by_value(a, b):
    left, right = Quantity(f"{a}m"), Quantity(f"{b * 1000}u")
    assert (left < right) == (a < b)
    assert (left == right) == (a == b)
    assert a != b or hash(left) == hash(right)


@pytest.mark.parametrize("text", ["1e999", "8Ei", "9223372036854775808"])
def test_more_than_kubernetes_holds_is_refused(text):
    with pytest.raises(ValueError, match="more than Kubernetes can hold"):
        Quantity(text)


def test_a_fraction_of_a_byte_rounds_up_as_in_kubernetes():
    assert int(Quantity("1500m")) == 2
