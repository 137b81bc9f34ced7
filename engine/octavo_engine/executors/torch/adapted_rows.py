"""The rows of a step that use adapters, by slot: the host's side of `kernels.adapter_weights.AdapterRows`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Tile = tuple[int, int, int]  # slot, first place, one past the last


@dataclass(frozen=True, slots=True)
class AdaptedRows:
    """The adapted rows of one step, at least one."""

    order: list[int]  # numbers of rows, those of one slot together
    spans: list[Tile]  # the places of each slot
    tile_rows: int  # the most rows of a tile, where the step runs by itself

    def tiles(self, tile_rows: int) -> list[Tile]:
        """Runs of up to `tile_rows` rows of one slot."""
        return [
            (slot, first, min(first + tile_rows, end))
            for slot, start, end in self.spans
            for first in range(start, end, tile_rows)
        ]


def adapted_rows(
    adapter_ids: Sequence[int], counts: Sequence[int], slots: Mapping[int, int], tile: Callable[[int], int]
) -> AdaptedRows | None:
    """The rows of requests of `counts` rows each, one after another; None if none has an adapter.

    slots: of each adapter; tile: `Operations.adapter_tile`.
    """
    by_slot: dict[int, list[int]] = {}
    start = 0
    for adapter_id, count in zip(adapter_ids, counts, strict=True):
        if adapter_id:
            by_slot.setdefault(slots[adapter_id], []).extend(range(start, start + count))
        start += count
    if not by_slot:
        return None
    order: list[int] = []
    spans = []
    for slot, rows in by_slot.items():
        spans.append((slot, len(order), len(order) + len(rows)))
        order += rows
    return AdaptedRows(order, spans, tile(len(order)))


def most_tiles(num_rows: int, num_slots: int, tile_rows: int) -> int:
    """The most tiles of up to so many rows over so many slots: each slot's last may have one row."""
    return min(num_rows, (num_rows + num_slots * (tile_rows - 1)) // tile_rows)
