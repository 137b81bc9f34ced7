"""Renderings, replicas and whole campaigns that the tests here share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from octavo_operator.api.names import NamespacedName
from octavo_operator.reconcile.upgrades.campaign import Campaign, Member
from octavo_operator.reconcile.upgrades.rendering import Pin, Record, Rendering
from octavo_operator.reconcile.upgrades.replicas import Replicas
from octavo_operator.reconcile.upgrades.step import Step, UpgradeState, is_moving, moved, step

OLD, NEW = "0.1.0-aaaaaa", "0.2.0-bbbbbb"
SERVES = Replicas(desired=1, ready=1, under_way=False)
LOADS = Replicas(desired=1, ready=0, under_way=False, loading=True)
CRASHES = Replicas(desired=1, ready=0, under_way=False, stuck="the engine exited with code 1")


def rendering(release: str = OLD, asked: str = "1", variant: str | None = "octavo-cuda", **more) -> Rendering:
    version = release.partition("-")[0]
    pin = None if variant is None else Pin(variant, f"octavo/engine:{version}", version)
    return Rendering(asked, release, pin, template_of(pin) | more)


def template_of(pin: Pin | None):
    image = "person/engine:1" if pin is None else pin.image
    return {"spec": {"containers": [{"name": "engine", "image": image}]}}


def case(
    record: Record | None = None, fresh: Rendering | None = None, replicas: Replicas = SERVES, **more
) -> UpgradeState:
    return UpgradeState(record or Record(rendering()), fresh or rendering(NEW), replicas, at(0), **more)


def at(seconds: int) -> str:
    return f"2026-01-01T00:{seconds // 60:02}:{seconds % 60:02}Z"


@dataclass
class World:
    """Services that load for three ticks, the campaign over them, and passes in any order."""

    names: str
    broken: str = ""
    """Services that the new release does not serve."""
    limit: int = 1
    release: str = NEW
    seconds: int = 0
    records: dict[NamespacedName, Record] = field(default_factory=dict)
    loading: dict[NamespacedName, int] = field(default_factory=dict)
    members: dict[NamespacedName, Member] = field(default_factory=dict)
    asked: dict[NamespacedName, str] = field(default_factory=dict)
    moves: list[str] = field(default_factory=list)
    most: int = 0
    """Services that moved at once."""

    def __post_init__(self) -> None:
        self.records = {NamespacedName("n", name): Record(rendering()) for name in self.names}

    def restart(self, release: str) -> None:
        """Another operator: it remembers nothing."""
        self.release = release
        self.members = {
            key: Member(self.moves_now(key, record), record.attempt) for key, record in self.records.items()
        }

    def moves_now(self, key: NamespacedName, record: Record) -> bool:
        changes = record.current.template != self.records[key].current.template
        return is_moving(record, LOADS if changes else self.replicas(key), self.release)

    def replicas(self, key: NamespacedName) -> Replicas:
        bad = key.name in self.broken and self.versions()[key.name] == "0.2.0"
        if self.loading.get(key):
            return LOADS
        return CRASHES if bad else SERVES

    def look(self, key: NamespacedName) -> Step:
        """A pass over one service."""
        record = self.records[key]
        fresh = rendering(self.release, self.asked.get(key, "1"))
        seen = UpgradeState(record, fresh, self.replicas(key), at(self.seconds))
        taken = step(seen)
        member = Member(self.moves_now(key, taken.record), taken.record.attempt, asked_for=taken.asked_for)
        if taken.phase == "Waiting":
            if self.campaign.may_move(key, member, self.members):
                taken = moved(seen)
                member = replace(member, moving=True)
                self.moves.append(key.name)
            else:
                member = replace(member, waits=True)
        if taken.phase == "Edited":  # rendered again, with the record's pin
            kept = replace(taken.record.current, template=template_of(taken.record.current.pin))
            taken = replace(taken, record=replace(taken.record, current=kept))
        if taken.record.current.template != record.current.template:
            self.loading[key] = 3
        self.records[key], self.members[key] = taken.record, member
        return taken

    @property
    def campaign(self) -> Campaign:
        return Campaign(self.release, self.limit)

    def walk(self, ticks: int = 60) -> World:
        for _ in range(ticks):
            self.seconds += 1
            for key in self.records:
                self.look(key)
            self.most = max(self.most, sum(self.replicas(key) is LOADS for key in self.records))
            self.loading = {key: left - 1 for key, left in self.loading.items() if left}
        return self

    def versions(self) -> dict[str, str]:
        """The versions of the engines that run."""
        return {key.name: record.current.pin.version for key, record in self.records.items()}
