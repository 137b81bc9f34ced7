"""Fields of the status that the installed CustomResourceDefinition does not have, for it may be older than the operator.

An apply that has one of them is refused as a whole: the status would stay as it is for good.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from octavo_operator.errors import ApiError

REFUSED = re.compile(r"\.status\.([A-Za-z0-9.]+): field not declared in schema")


@dataclass(slots=True)
class Undeclared:
    """The undeclared fields that rejections have shown, until they are doubted."""

    paths: set[str] = field(default_factory=set)
    """Dotted, below the status."""

    def learn(self, error: ApiError, status: Mapping[str, Any]) -> dict[str, Any] | None:
        """The refused status without the fields that the refusal names; None where it has none of them."""
        self.paths |= set(REFUSED.findall(error.words))
        shorter = self.without(status)
        return None if shorter == status else shorter

    def doubt(self) -> None:
        """The definition may have been updated."""
        self.paths.clear()

    def without(self, status: Mapping[str, Any]) -> dict[str, Any]:
        """The status as that definition takes it, with a warning among its plan's."""
        if not self.paths:
            return dict(status)
        result = deepcopy(dict(status))
        missing = [path for path in sorted(self.paths) if _remove(result, path.split("."))]
        if missing and "plan" in result:
            names = ", ".join(f"status.{path}" for path in missing)
            text = (
                f"{names}: not in the installed CustomResourceDefinition, which is older than the operator and so does not "
                "keep it; kubectl apply -f crds of this release"
            )
            result["plan"]["warnings"] = [*result["plan"].get("warnings", ()), text]
        return result


def _remove(value: Any, path: list[str]) -> bool:
    for name in path[:-1]:
        value = value.get(name) if isinstance(value, dict) else None
    return isinstance(value, dict) and value.pop(path[-1], None) is not None
