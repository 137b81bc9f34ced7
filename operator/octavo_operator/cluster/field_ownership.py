"""The owners of an object's fields, from its `metadata.managedFields` (FieldsV1 of server-side apply).

A path is a tuple of steps: `("f", "spec")` a field, `("k", {...})` an item of a list by its keys, `("v", …)` an item of
a set. Ours are the fields of the manager `octavo`. Those of another *applying* manager are another's: they are left
alone where they differ. What was written by an update (kubectl edit, kubectl scale) is a person's slip, and is restored;
of replicas that an autoscaler wrote managed fields show too little (see `replicas`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from octavo_operator.api.labels import FIELD_MANAGER

Object = dict[str, Any]
Fields = Mapping[str, Any]
HANDOVER = "octavo-handover"
"""Holds `replicas` between us and the autoscaler."""


def ours(live: Object, manager: str = FIELD_MANAGER) -> Fields:
    """The fields that were applied by a manager of ours; empty where it applied none."""
    for entry in live["metadata"].get("managedFields", ()):
        if entry.get("manager") == manager and entry.get("operation") == "Apply" and not entry.get("subresource"):
            fields: Fields = entry.get("fieldsV1", {})
            return fields
    return {}


def others(live: Object) -> Iterator[tuple[str, Fields]]:
    """Managers whose fields are not ours to take, with their fields."""
    for entry in live["metadata"].get("managedFields", ()):
        manager, applied = str(entry.get("manager")), entry.get("operation") == "Apply"
        if applied and not entry.get("subresource") and manager not in {FIELD_MANAGER, HANDOVER}:
            yield manager, entry.get("fieldsV1", {})


def item_of(items: list[Any], step: str) -> Any:
    """The item of a list that a step `k:{…}`, `v:…` or `i:…` means; None where there is none."""
    kind, _, text = step.partition(":")
    if kind == "i":
        return items[int(text)] if int(text) < len(items) else None
    wanted = json.loads(text)
    for item in items:
        if kind == "v" and item == wanted:
            return item
        # A key that was left to its default is in the step, not in what was applied.
        if kind == "k" and isinstance(item, dict) and all(item.get(k, v) == v for k, v in wanted.items()):
            return item
    return None


def covers(fields: Fields, desired: Any) -> bool:
    """True if `desired` has every owned field: one that is no longer desired must be given up by another apply."""
    for step, below in fields.items():
        if step == ".":
            continue
        if step.startswith("f:"):
            if not isinstance(desired, dict) or step[2:] not in desired:
                return False
            inner = desired[step[2:]]
        else:
            if not isinstance(desired, list):
                return False
            inner = item_of(desired, step)
            if inner is None:
                return False
        if below and not covers(below, inner):
            return False
    return True


def owns(fields: Fields, *path: str) -> bool:
    """True if a plain field is among them."""
    here: Any = fields
    for name in path:
        if not isinstance(here, Mapping) or f"f:{name}" not in here:
            return False
        here = here[f"f:{name}"]
    return True
