"""The volume that keeps the model: its size, and who may mount it."""

from __future__ import annotations

from fractions import Fraction

from octavo_operator.api.placement import Cache
from octavo_operator.api.quantity import Quantity
from octavo_operator.planner.plan import CachePlan, Scale
from octavo_operator.planner.sizes import GIB, round_up

UNKNOWN_SIZE = Quantity("100Gi")
FETCHED = {"hf", "package", "s3", "gs", "oci", "http", "https"}  # schemes whose models are downloaded


def claim_size(model_bytes: int | None) -> Quantity:
    """Room for two revisions and a tenth more, in steps that read well.

    A new revision is downloaded while replicas still read the old one.
    """
    if model_bytes is None:
        return UNKNOWN_SIZE
    wanted = model_bytes * Fraction(21, 10)
    return Quantity.of_bytes(round_up(wanted, GIB if wanted < 20 * GIB else 10 * GIB))


def plan_cache(
    name: str,
    cache: Cache | None,
    model_bytes: int | None,
    scale: Scale,
    existing_mode: str | None = None,
    existing_size: str | None = None,
) -> CachePlan | None:
    """The claim; None where the manifest has no cache. What it leaves open follows a claim that exists already."""
    if cache is None:
        return None
    mode = cache.access_mode or existing_mode or ("ReadWriteMany" if scale.maximum > 1 else "ReadWriteOnce")
    if cache.existing_claim is not None:
        return CachePlan(
            claim=cache.existing_claim,
            create=False,
            size=None,
            storage_class=None,
            access_mode=mode,
            preload=cache.preload,
            retain=True,
            colocated=False,
        )
    return CachePlan(
        claim=f"{name}-cache",
        create=True,
        size=str(cache.size or existing_size or claim_size(model_bytes)),
        storage_class=cache.storage_class_name,
        access_mode=mode,
        preload=cache.preload,
        retain=cache.retain,
        colocated=mode != "ReadWriteMany",
    )
