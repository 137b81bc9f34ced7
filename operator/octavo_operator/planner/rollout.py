"""How a change reaches the replicas: with a surge where a card is free for it, in place where none is."""

from __future__ import annotations

from octavo_operator.planner.plan import CachePlan, Hardware, RolloutPlan, Scale


def choose(
    strategy: str, hardware: Hardware, free_cards: int | None, scale: Scale, cache: CachePlan | None
) -> RolloutPlan:
    """The rollout. In place, one replica alone is recreated: nothing can answer meanwhile."""
    surge, reason = _surge(strategy, hardware, free_cards, cache)
    if surge:
        return RolloutPlan("Surge", max_surge=1, max_unavailable=0, recreate=False, reason=reason)
    alone = scale.maximum <= 1
    return RolloutPlan("InPlace", max_surge=0, max_unavailable=1, recreate=alone, reason=reason)


def _surge(strategy: str, hardware: Hardware, free_cards: int | None, cache: CachePlan | None) -> tuple[bool, str]:
    if cache is not None and cache.access_mode == "ReadWriteOncePod":
        return False, "cache.accessMode ReadWriteOncePod lets one pod at a time have the model"
    if strategy != "Auto":
        return strategy == "Surge", f"rollout.strategy: {strategy}"
    if cache is not None and cache.create and cache.colocated and hardware.cards:
        return False, f"cache.accessMode {cache.access_mode} ties a surge to the node whose cards are taken"
    if hardware.cards == 0:
        return True, "a CPU replica needs no card for a surge"
    needed = "a card" if hardware.cards == 1 else f"{hardware.cards} cards"
    if free_cards is None:
        free = "is" if hardware.cards == 1 else "are"
        return False, f"whether {needed} {free} free for a surge is not known"
    if free_cards >= hardware.cards:
        return True, f"{needed} for a surge {'is' if hardware.cards == 1 else 'are'} free"
    return False, f"no free cards for a surge: it needs {needed}"
