"""Compares a description with the tensors of a checkpoint, for tests: each tensor is read, and read once."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from octavo_models.spec import ModelSpec

VISION = re.compile(
    r"(model\.)?(vision_|audio_|embed_vision\.|embed_audio\.|visual\.|multi_modal_projector\.|connector\.)"
)
CONSTANTS = (".act_fn.beta", ".act_fn.eps")  # numbers of an activation that checkpoints hold and no decoder changes


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of each tensor in the safetensors files of a folder."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        shapes |= {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    return shapes


def check_stored(spec: ModelSpec, tensors: Mapping[str, tuple[int, ...]]) -> None:
    """Assert that each weight fits its tensors, and that all of `tensors` but a vision half's are read, each row once.

    What two weights read alike (values that are keys) counts as read once.
    """
    vision = {name: shape for name, shape in tensors.items() if VISION.match(name)}
    assert spec.vision_parameters == sum(map(math.prod, vision.values()))
    tensors = {name: tensors[name] for name in tensors.keys() - vision.keys() if not name.endswith(CONSTANTS)}
    assert len({weight.name for weight in spec.weights}) == len(spec.weights)
    read: Counter[str] = Counter()
    rows: dict[str, int] = {}
    for weight in {weight.sources: weight for weight in spec.weights}.values():
        for source in weight.sources:
            assert source.tensor in tensors, f"{weight.name} is expected in {source.tensor}"
            stored = tensors[source.tensor]
            assert weight.fits(source, stored), f"{weight.name} {weight.shape} in {source} of the shape {stored}"
            rows[source.tensor] = source.rows_of(stored, vector=len(weight.shape) == 1)[0]
            part = source.rows
            read[source.tensor] += rows[source.tensor] if part is None else part.count * part.groups
    assert set(tensors) == set(read)
    assert dict(read) == rows
