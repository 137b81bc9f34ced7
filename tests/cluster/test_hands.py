"""The manager of a field decides whether its change is undone."""

from __future__ import annotations

import pytest

from octavo_operator.cluster.editors import editor


def entry(manager, at, operation="Update", subresource=None):
    time = f"2026-01-01T00:00:{at:02}Z"
    return {"manager": manager, "operation": operation, "time": time} | (
        {"subresource": subresource} if subresource else {}
    )


OURS = entry("octavo", 10, "Apply")


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([OURS], None),
        ([OURS, entry("kubectl-edit", 20)], "kubectl-edit"),
        ([OURS, entry("kubectl-edit", 5)], None),
        ([OURS, entry("kubectl-edit", 20), entry("keda", 30, subresource="scale")], "keda"),
        ([OURS, entry("kube-controller-manager", 20, subresource="status")], None),
        ([OURS, entry("kube-controller-manager", 20)], None),
        ([OURS, entry("argocd", 20, "Apply")], None),
        ([], None),
    ],
)
def test_the_last_hand_after_our_own_apply_is_named(entries, expected):
    """Controllers of the cluster, and managers that apply, are no slip of a hand."""
    assert editor({"metadata": {"managedFields": entries}}) == expected
