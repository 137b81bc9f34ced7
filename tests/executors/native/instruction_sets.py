"""The instruction sets of the native executor as parameters of tests: one that this CPU lacks is skipped, and seen."""

from __future__ import annotations

import pytest

from octavo_engine.executors.native import _native

NAMES = tuple(_native.ISAS)
AMX = _native.ISAS["amx"]
# The others have the operations of the one before them, and other products.
OPERATIONS = ("scalar", "avx2", "avx512-bf16")


def available(name: str) -> bool:
    return _native.isa_available(_native.ISAS[name])


def name_of(isa: int) -> str:
    return next(name for name, number in _native.ISAS.items() if number == isa)


def _parameters(names: tuple[str, ...]) -> list:
    return [
        pytest.param(
            _native.ISAS[name], id=name, marks=pytest.mark.skipif(not available(name), reason=f"this CPU has no {name}")
        )
        for name in names
    ]


BEST = _native.best_isa()
BEST_OF_OPERATIONS = max(_native.ISAS[name] for name in OPERATIONS if available(name))
every_isa = pytest.mark.parametrize("isa", _parameters(NAMES))
every_isa_of_operations = pytest.mark.parametrize("isa", _parameters(OPERATIONS))
