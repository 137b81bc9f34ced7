"""The claim that keeps the model."""

from __future__ import annotations

from octavo_operator.api.labels import PRELOAD
from octavo_operator.children.child import Manifest, child
from octavo_operator.planner.plan import Plan


def render(plan: Plan, name: str) -> Manifest:
    """A claim that is to be retained has no owner, so nothing deletes it."""
    cache = plan.cache
    assert cache is not None
    spec: Manifest = {"accessModes": [cache.access_mode], "resources": {"requests": {"storage": cache.size}}}
    if cache.storage_class is not None:
        spec["storageClassName"] = cache.storage_class
    return child(plan, "v1", "PersistentVolumeClaim", name, spec, component=PRELOAD, owned=not cache.retain)
