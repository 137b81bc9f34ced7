"""Lets the engine's modules be imported where msgspec is not: structs become dataclasses, and nothing is encoded.

For machines with a GPU that have torch, triton and nothing else, and no network.
"""

from __future__ import annotations

import copy
import inspect
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import ModuleType
from typing import Any


class Struct:
    """A stand-in for `msgspec.Struct`: the fields, their defaults, and whether they can be assigned."""

    def __init_subclass__(cls, *, frozen: bool = False, kw_only: bool = False, **_encoding: Any) -> None:
        for name in inspect.get_annotations(cls):
            default = cls.__dict__.get(name)
            if isinstance(default, list | dict | set):
                setattr(cls, name, field(default_factory=lambda default=default: copy.copy(default)))
        dataclass(frozen=frozen, kw_only=kw_only)(cls)


def stand_in() -> None:
    """Be `msgspec`, unless there is one."""
    if find_spec("msgspec") is None:
        module = ModuleType("msgspec")
        module.Struct = Struct  # type: ignore[attr-defined]
        sys.modules["msgspec"] = module
