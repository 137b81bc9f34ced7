"""`podTemplate` laid over a rendered template, as a strategic merge patch would be.

Mappings merge key by key, null removes a key, and lists whose items have a name merge item by item; `$patch: delete`
and `$patch: replace` work as in a patch. Two things differ, because what is meant is clear: tolerations are added
(a patch would replace them, and with them the one for the GPU), and an item that may have one of several sources, a
volume or a variable, is replaced where the patch gives another source.

The keys are those of the API's own `patchMergeKey` tags (k8s.io/api/core/v1).
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "volumes": "name",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "resourceClaims": "name",
}
ONE_SOURCE = {"volumes", "env"}
ADDED = {"tolerations"}
DIRECTIVE = "$patch"


def merged(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `patch` over it; neither is changed."""
    if patch.get(DIRECTIVE) == "replace":
        return {key: deepcopy(value) for key, value in patch.items() if key != DIRECTIVE}
    result = deepcopy(dict(base))
    for key, value in patch.items():
        if key == DIRECTIVE:
            continue
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            below = result.get(key)
            if value.get(DIRECTIVE) == "delete":
                result.pop(key, None)
            else:
                result[key] = merged(below if isinstance(below, Mapping) else {}, value)
        elif isinstance(value, list):
            below = result.get(key)
            result[key] = _merged_list(key, below if isinstance(below, list) else [], value)
        else:
            result[key] = value
    return result


def _merged_list(field: str, base: list[Any], patch: list[Any]) -> list[Any]:
    """Merge lists: items of `base` keep their places, new ones follow in the order of `patch`."""
    if {DIRECTIVE: "replace"} in patch:
        return [deepcopy(item) for item in patch if item != {DIRECTIVE: "replace"}]
    if field in ADDED:
        return deepcopy(base) + [deepcopy(item) for item in patch if item not in base]
    key = MERGE_KEYS.get(field)
    if key is None or not all(isinstance(item, Mapping) and key in item for item in (*base, *patch)):
        return deepcopy(patch)
    result = {item[key]: deepcopy(item) for item in base}
    for item in patch:
        name = item[key]
        if item.get(DIRECTIVE) == "delete":
            result.pop(name, None)
        elif name not in result or (field in ONE_SOURCE and not item.keys() <= result[name].keys()):
            result[name] = {k: deepcopy(v) for k, v in item.items() if k != DIRECTIVE}
        else:
            result[name] = merged(result[name], item)
    return list(result.values())
