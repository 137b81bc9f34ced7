"""The kinds of children that a service may have: a pass lists those and the ones that its spec asks for, no others.

An optional kind counts once a list or a watch has shown a child of it. Until all kinds were listed, and again at each
resync, all of them count, so that a watch event that was lost is not lost for good. Belongs to one event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from octavo_operator.api.names import NamespacedName
from octavo_operator.api.resources import CHILDREN, MONITORS, Resource
from octavo_operator.api.v1alpha1 import LLMService
from octavo_operator.planner.children import kinds_of


@dataclass(slots=True)
class KindsSeen:
    """The kinds that lists and watches have shown, by service. `monitors`: the cluster serves ServiceMonitors."""

    monitors: Callable[[], bool] = lambda: True
    _seen: dict[NamespacedName, set[str]] = field(default_factory=dict)
    _complete: set[NamespacedName] = field(default_factory=set)

    def to_list(self, key: NamespacedName, service: LLMService | None, *, new: bool = False) -> tuple[Resource, ...]:
        """The kinds that a pass lists; everything where the spec can't be read. A `new` service was not looked at
        before, so
        that it has no children but those that a watch may have shown."""
        known = (*CHILDREN, MONITORS) if self.monitors() else CHILDREN
        if new:
            self._complete.add(key)
        if service is None or key not in self._complete:
            return known
        kinds = self._seen.get(key, set()) | kinds_of(service)
        return tuple(resource for resource in known if not resource.optional or resource.kind in kinds)

    def note(self, key: NamespacedName, kinds: Iterable[str]) -> None:
        """A watch or a list has shown children of these kinds."""
        self._seen.setdefault(key, set()).update(kinds)

    def listed(self, key: NamespacedName, resources: Iterable[Resource]) -> None:
        """These kinds were listed, and what was there was noted."""
        if set(CHILDREN) <= set(resources):
            self._complete.add(key)

    def doubt(self) -> None:
        """All kinds count again, of every service."""
        self._complete.clear()
        self._seen.clear()

    def forget(self, key: NamespacedName) -> None:
        """The service is gone."""
        self._seen.pop(key, None)
        self._complete.discard(key)
