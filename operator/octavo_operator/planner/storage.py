"""The volume that keeps the model: its size, and who may mount it."""

from __future__ import annotations

import re
from fractions import Fraction

from octavo_operator.api.base import SUBDOMAIN
from octavo_operator.api.names import cache_claim
from octavo_operator.api.observed import Object, Observed
from octavo_operator.api.placement import Cache
from octavo_operator.api.quantity import Quantity
from octavo_operator.api.v1alpha1 import LLMService
from octavo_operator.planner.plan import CachePlan, Scale
from octavo_operator.planner.sizes import GIB, round_up

UNKNOWN_SIZE = Quantity("100Gi")
FITS_WITH = Fraction(21, 20)  # the model, its small files and a file system's own needs
WIDEST_FIRST = ("ReadWriteMany", "ReadOnlyMany", "ReadWriteOnce", "ReadWriteOncePod")
SHARED = {"ReadWriteMany", "ReadOnlyMany"}  # modes by which pods on several nodes mount a volume
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
    name: str, cache: Cache | None, model_bytes: int | None, scale: Scale, observed: Observed
) -> CachePlan | None:
    """The claim; None where the manifest has no cache. What it leaves open follows a claim that exists already.

    A claim that this service made stays its own where the manifest names it as an existing one; it then has no owner,
    for an existing claim outlasts the service.
    """
    if cache is None:
        return None
    own, named = cache_claim(name), cache.existing_claim
    claim = named or own
    live = observed.claim(claim)
    create = named is None or (named == own and observed.child("PersistentVolumeClaim", own) is not None)
    mode = cache.access_mode or mode_of(live) or ("ReadWriteMany" if scale.maximum > 1 else "ReadWriteOnce")
    return CachePlan(
        claim=claim,
        create=create,
        size=_size(cache, model_bytes, live) if create else None,
        storage_class=cache.storage_class_name,
        access_mode=mode,
        preload=cache.preload,
        retain=named is not None or cache.retain,
        # Of a claim that is not ours and that was not seen nothing is known, and nothing is ruled out.
        colocated=mode not in SHARED and (create or live is not None),
        nodes=() if observed.nodes is None or mode in SHARED else observed.nodes.names,
    )


def referenced(service: LLMService) -> tuple[str, ...]:
    """Claims that the manifest names: they are another's to create, and never ours to delete."""
    spec = service.spec
    names = [] if spec.cache is None or spec.cache.existing_claim is None else [spec.cache.existing_claim]
    if (claim := model_claim(service)) is not None:
        names.append(claim)
    template = spec.pod_template.get("spec")
    volumes = template.get("volumes") if isinstance(template, dict) else None
    for volume in volumes if isinstance(volumes, list) else ():
        source = volume.get("persistentVolumeClaim") if isinstance(volume, dict) else None
        name = source.get("claimName") if isinstance(source, dict) else None
        # podTemplate may hold anything: what is no name would be another path when the claim is asked for.
        if isinstance(name, str) and re.fullmatch(SUBDOMAIN, name):
            names.append(name)
    return tuple(dict.fromkeys(names))


def model_claim(service: LLMService) -> str | None:
    """The claim of pvc://."""
    uri = service.spec.model.uri
    return uri.rest.partition("/")[0] if uri.scheme == "pvc" else None


def narrow_modes(service: LLMService, cache: CachePlan | None, observed: Observed) -> dict[str, str]:
    """Claims of a replica's that are on one node at a time, or in one pod, with their mode."""
    modes = {} if cache is None or not cache.colocated else {cache.claim: cache.access_mode}
    for name in referenced(service):
        mode = mode_of(observed.claim(name))
        if mode is not None and mode not in SHARED:
            modes[name] = mode
    return modes


def is_narrow(thing: Object) -> bool:
    """A claim that is on one node at a time."""
    return thing["kind"] == "PersistentVolumeClaim" and mode_of(thing) not in {None, *SHARED}


def mode_of(claim: Object | None) -> str | None:
    """The mode by which pods share it: the widest of those that its volume has."""
    if claim is None:
        return None
    modes = claim.get("status", {}).get("accessModes") or claim["spec"].get("accessModes") or ()
    return next((mode for mode in WIDEST_FIRST if mode in modes), None)


def _size(cache: Cache, model_bytes: int | None, live: Object | None) -> str:
    """Claims do not shrink: one that is larger than the manifest requests keeps its size. One without a size in the
    manifest grows once the model no longer fits, unless it has no volume yet: then it can't."""
    there = None if live is None else Quantity(str(live["spec"]["resources"]["requests"]["storage"]))
    wanted = cache.size
    if wanted is None and there is None:
        wanted = claim_size(model_bytes)
    elif wanted is None and there is not None and live is not None and model_bytes is not None:
        bound = live.get("status", {}).get("phase") == "Bound"
        wanted = claim_size(model_bytes) if bound and there.value < model_bytes * FITS_WITH else None
    sizes = [size for size in (wanted, there) if size is not None]
    return str(max(sizes, key=lambda size: size.value))
