"""Bytes as a person reads them."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

KIB, MIB, GIB = 1024, 1024**2, 1024**3


def gib(count: int) -> str:
    """A number of bytes in GiB with one decimal, halves rounded up: 1.25 GiB is 1.3."""
    return str((Decimal(count) / GIB).quantize(Decimal("0.1"), ROUND_HALF_UP))


def in_gib(count: int) -> str:
    """`gib` with the unit."""
    return f"{gib(count)} GiB"


def human(count: int) -> str:
    """A number of bytes with its unit: `80 MiB`, `1.3 GiB`."""
    if count < GIB:
        return f"{-(-count // MIB)} MiB"
    return in_gib(count)


def round_up(count: int | Fraction, unit: int) -> int:
    """The next multiple of `unit`."""
    return int(-(-count // unit) * unit)
