"""A kind of child is complete: it has a renderer, and both installations grant the operator what it does with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from octavo_operator.api.resources import BY_KIND
from octavo_operator.children import RENDERERS

RBAC = Path(__file__).parents[2] / "config" / "rbac"


def granted(file: str, role: str) -> dict[tuple[str, str], set[str]]:
    """Verbs by group and resource."""
    found: dict[tuple[str, str], set[str]] = {}
    for document in yaml.safe_load_all((RBAC / file).read_text(encoding="utf-8")):
        if document["kind"] == role:
            for rule in document["rules"]:
                for group in rule.get("apiGroups", ()):
                    for resource in rule.get("resources", ()):
                        found.setdefault((group, resource), set()).update(rule["verbs"])
    return found


def test_every_kind_has_a_renderer():
    assert RENDERERS.keys() == BY_KIND.keys()


@pytest.mark.parametrize(("file", "role"), [("operator.yaml", "ClusterRole"), ("namespaced/operator.yaml", "Role")])
@pytest.mark.parametrize("kind", BY_KIND)
def test_the_operator_may_write_every_kind(kind, file, role):
    resource = BY_KIND[kind]
    verbs = {"get", "list", "watch", "create", "patch"} | ({"delete"} if resource.optional else set())
    assert verbs <= granted(file, role).get((resource.group, resource.plural), set())
