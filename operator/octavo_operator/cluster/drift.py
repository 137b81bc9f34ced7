"""Detects drift between the desired and the live object, so that an idle operator writes nothing.

Every desired field must have its value, and every field that we own must still be desired. What the API
server adds (defaults) and what others add is passed over; quantities are compared by value, lists with keys by item.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from octavo_operator.api.quantity import Quantity
from octavo_operator.cluster.field_ownership import Fields, Object, covers, item_of, others, ours

# Lists that may have items of others, by the keys that identify items (the API's own listMapKeys).
KEYS: dict[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "imagePullSecrets": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "hostAliases": ("ip",),
    "resourceClaims": ("name",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "ownerReferences": ("uid",),
    "schedulingGates": ("name",),
}
PORTS = (("containerPort", "protocol"), ("port", "protocol"))


def differs(desired: Object, live: Object) -> bool:
    """True if it takes an apply of `desired` to make `live` what it should be."""
    return not _within(desired, live, ()) or not covers(ours(live), desired)


def same_template(desired: Object, live: Object) -> bool:
    """True if the pods of a Deployment stay as they are: its template needs no apply."""
    path = ("spec", "template")
    wanted, there = desired["spec"]["template"], live["spec"]["template"]
    owned: Any = ours(live)
    for step in path:
        owned = owned.get(f"f:{step}", {})
    return _within(wanted, there, path) and covers(owned, wanted)


def without_others(desired: Object, live: Object) -> tuple[Object, tuple[str, ...]]:
    """`desired` without the fields that another manager holds with another value, and who holds which of them."""
    held: list[str] = []
    managers = list(others(live))
    if not managers:
        return desired, ()
    result = deepcopy(desired)
    for manager, fields in managers:
        held += [f"{_dotted(path)} is set by {manager}" for path in _taken(fields, result, live, ())]
    return result, tuple(held)


def _taken(fields: Fields, desired: Any, live: Any, path: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Removes from `desired` what differs, and returns the paths."""
    found: list[tuple[str, ...]] = []
    for step, below in fields.items():
        if step == "." or (step.startswith("f:") and step[2:] in {"apiVersion", "kind"}):
            continue
        if step.startswith("f:"):
            key = step[2:]
            if not isinstance(desired, dict) or key not in desired or not isinstance(live, dict) or key not in live:
                continue
            if below and set(below) != {"."}:
                found += _taken(below, desired[key], live[key], (*path, key))
            elif not _within(desired[key], live[key], (*path, key)):
                del desired[key]
                found.append((*path, key))
        elif isinstance(desired, list) and isinstance(live, list):
            mine, theirs = item_of(desired, step), item_of(live, step)
            if mine is not None and theirs is not None and below:
                found += _taken(below, mine, theirs, (*path, f"[{_name(mine)}]"))
    return found


def _within(desired: Any, live: Any, path: tuple[str, ...]) -> bool:
    if isinstance(desired, dict):
        if not isinstance(live, dict):
            return not desired and live is None
        return all(_within(value, live.get(key), (*path, key)) for key, value in desired.items())
    if isinstance(desired, list):
        if not isinstance(live, list):
            return not desired and live is None
        return _items_within(desired, live, path)
    if desired == live and isinstance(desired, bool) == isinstance(live, bool):
        return True
    if desired in ("", 0, False, None) and live is None:
        return True  # the server leaves out what is empty
    return _at_quantity(path) and _same_quantity(desired, live, at_least=_is_claim(path))


def _items_within(desired: list[Any], live: list[Any], path: tuple[str, ...]) -> bool:
    keys = _keys_of(path[-1] if path else "", desired)
    if keys is None:
        return len(desired) == len(live) and all(_within(d, v, path) for d, v in zip(desired, live, strict=True))
    for item in desired:
        same = [each for each in live if all(each.get(key) == item[key] for key in keys if key in item)]
        if not same or not _within(item, same[0], path):
            return False
    return True


def _keys_of(name: str, items: list[Any]) -> tuple[str, ...] | None:
    if name == "ports" and items and all(isinstance(item, dict) for item in items):
        for keys in PORTS:
            if all(keys[0] in item for item in items):
                return keys
    known = KEYS.get(name)
    return known if known and all(isinstance(item, dict) and known[0] in item for item in items) else None


def _at_quantity(path: tuple[str, ...]) -> bool:
    return bool({"requests", "limits", "sizeLimit", "averageValue", "value"} & set(path[-2:]))


def _is_claim(path: tuple[str, ...]) -> bool:
    """A claim that was made larger stays so: claims can't shrink."""
    return path == ("spec", "resources", "requests", "storage")


def _same_quantity(desired: Any, live: Any, *, at_least: bool) -> bool:
    try:
        desired, there = Quantity(str(desired)).value, Quantity(str(live)).value
    except (ValueError, TypeError):
        return False
    return there == desired or (at_least and there > desired)


def _name(item: Any) -> str:
    return str(item.get("name") or next(iter(item.values()), "")) if isinstance(item, dict) else str(item)


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(path).replace(".[", "[")
