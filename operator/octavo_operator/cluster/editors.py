"""Finds who changed a child after us, by its managed fields, so that an Event can name them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from octavo_operator.api.labels import FIELD_MANAGER

CONTROLLERS = "kube-"  # the cluster's own: kube-controller-manager, kube-scheduler


def editor(live: Mapping[str, Any]) -> str | None:
    """The last one who updated it, by hand or through its scale; None where the last change was our own.

    One that *applies* is no slip of a hand: its fields are left as they are.
    """
    entries = live["metadata"].get("managedFields") or ()
    ours = max((str(each.get("time", "")) for each in entries if each.get("manager") == FIELD_MANAGER), default="")
    later = [
        each
        for each in entries
        if each.get("operation") == "Update"
        and each.get("subresource") in {None, "", "scale"}
        and each.get("manager") != FIELD_MANAGER
        and not str(each.get("manager", "")).startswith(CONTROLLERS)
        and str(each.get("time", "")) >= ours
    ]
    last = max(later, key=lambda each: str(each.get("time", "")), default=None)
    return None if last is None else str(last.get("manager"))
