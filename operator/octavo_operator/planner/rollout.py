"""Decides how a change reaches the replicas: with a surge where one fits, in place where none does, never a
deadlock.

Chosen when a change begins. One that is under way goes on as it began, for its own surge has taken the GPU that was
free; but a surge that finds no node for too long ends in place, and a replica that finds none although an old one made
way for it has further old ones make way: one at a time, the next once the last one's successor is ready. Old replicas
make way only where that helps: a change that no node could take leaves them be, and so does one whose GPU another pod
would take that waits as well. When a change begins is decided beside all services (`turns.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from octavo_operator.api.observed import Change, Observed
from octavo_operator.planner.plan import Hardware, RolloutPlan, Scale

PATIENCE_S = 60  # for a node with capacity: others' pods end
NODE_S = 900  # for one that an autoscaler adds: its own limit


def choose(
    strategy: str, hardware: Hardware, observed: Observed, scale: Scale, narrow: Mapping[str, str]
) -> RolloutPlan:
    """The rollout; `narrow` has the claims that are on one node at a time, with their modes.

    In place, one replica alone is recreated: nothing can answer meanwhile.
    """
    change = observed.change
    lost = change is not None and change.unplaced_s is not None
    surge, reason, momentary = _surge(strategy, hardware, observed.free_gpus, narrow)
    if change is not None and strategy == "Auto" and surge != change.surges:
        surge, reason = change.surges, "a change that is under way ends as it began"
    if not lost:
        return _rollout(scale, reason, surge=surge, momentary=momentary)
    assert change is not None
    if change.old_makes_way is None:
        reason = "a new replica waits for a node; rollout.strategy: InPlace lets an old one make way first"
        return _rollout(scale, reason, surge=surge)
    if not change.old_makes_way:
        why = f"{change.contender} would take its GPU" if change.contender else "that would not help"
        reason = f"a new replica waits for a node; no old one makes way, for {why}"
        return _rollout(scale, reason, surge=surge)
    if surge and strategy == "Surge":
        return _rollout(scale, "rollout.strategy: Surge waits for a node with capacity", surge=True)
    if not _is_too_long(change):
        came = ", which an autoscaler adds" if change.node_comes else ""
        waits = _rollout(scale, f"a new replica waits for a node with capacity{came}", surge=surge, waits=True)
        return replace(waits, patience=_patience(change))
    if not change.old_serves:
        reason = "no node has capacity for a new replica, and no old one serves: one makes way at once"
        return _rollout(scale, reason, surge=False, max_unavailable=change.unready + 1)
    return _rollout(
        scale,
        f"no node had capacity for a new replica within {_patience(change)} s: an old one makes way",
        surge=False,
        max_unavailable=change.unready + 1,
    )


def _rollout(
    scale: Scale, reason: str, *, surge: bool, max_unavailable: int = 1, waits: bool = False, momentary: bool = False
) -> RolloutPlan:
    if surge:
        return RolloutPlan("Surge", 1, 0, recreate=False, reason=reason, waits=waits, momentary=momentary)
    alone = scale.maximum <= 1
    return RolloutPlan("InPlace", 0, max_unavailable, alone, reason, waits=waits, momentary=momentary)


def _is_too_long(change: Change) -> bool:
    return not change.old_serves or (change.unplaced_s is not None and change.unplaced_s >= _patience(change))


def _patience(change: Change) -> int:
    return NODE_S if change.node_comes else PATIENCE_S


def _surge(
    strategy: str, hardware: Hardware, free_gpus: int | None, narrow: Mapping[str, str]
) -> tuple[bool, str, bool]:
    """The decision between surge and in place: whether it surges, why, and whether that holds for this moment only."""
    for claim, mode in narrow.items():
        if mode == "ReadWriteOncePod":
            return False, f"the claim {claim} is ReadWriteOncePod: one pod at a time may have it", False
    if strategy != "Auto":
        return strategy == "Surge", f"rollout.strategy: {strategy}", False
    if hardware.gpus == 0:
        return True, "a CPU replica needs no GPU for a surge", False
    for claim, mode in narrow.items():
        return False, f"the claim {claim} is {mode}: it ties a surge to the node whose GPUs are taken", False
    needed = "a GPU" if hardware.gpus == 1 else f"{hardware.gpus} GPUs"
    if free_gpus is None:
        free = "is" if hardware.gpus == 1 else "are"
        return False, f"whether {needed} {free} free for a surge is not known", True
    if free_gpus >= hardware.gpus:
        return True, f"{needed} for a surge {'is' if hardware.gpus == 1 else 'are'} free", True
    return False, f"no free GPUs for a surge: it needs {needed}", True
