"""The record of a Deployment's rendering: its pod template as rendered, and what it was rendered from.

It is kept in an annotation of the Deployment, for there it changes together with the template: a process that is killed
between two writes leaves nothing that contradicts itself, and a status that is lost takes nothing with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, fields
from typing import Any

from octavo_operator.api.observed import Object
from octavo_operator.api.status import NEVER
from octavo_operator.api.v1alpha1 import GROUP, UPGRADE
from octavo_operator.children import Manifest

ANNOTATION = f"{GROUP}/rendered"
LONGEST = 100_000  # bytes; the API server takes 256 KiB of annotations in all
UNKNOWN = ""  # is never what was asked for


@dataclass(frozen=True, slots=True)
class Pin:
    """A default image, as it was when the service took it."""

    variant: str
    """Key of `Settings.images`: a pin of one runtime and accelerator is none of another."""
    image: str
    version: str
    """Version of the operator whose default it was; the engine has the same."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """A pod template, and what it was rendered from."""

    asked: str
    """A person's request at that time: see `asked_of`."""
    release: str
    """`Settings.release` of the operator that rendered it."""
    pin: Pin | None
    """The pinned image; None where the manifest names its image."""
    template: Manifest


@dataclass(frozen=True, slots=True)
class Move:
    """An upgrade that is under way, and what it started from."""

    previous: Rendering
    ready: int
    """Replicas that were ready."""
    since: str
    """RFC 3339, by the API server's clock."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """The end of a service's last upgrade."""

    release: str
    asked: str
    approval: str
    served: bool
    at: str
    """RFC 3339, by the API server's clock."""
    why: str = ""
    """The reason why it did not serve."""
    image: str = ""
    """The default image of the attempt."""


@dataclass(frozen=True, slots=True)
class Record:
    """All that is kept of a service's upgrades."""

    current: Rendering
    move: Move | None = None
    attempt: Attempt | None = None


def asked_of(body: Object) -> str:
    """A person's request as a word that changes with it and with nothing else.

    Follows the generation rather than the spec: defaults that a newer CustomResourceDefinition fills in do not move it.
    """
    metadata = body["metadata"]
    ours = {
        key: value
        for key, value in (metadata.get("annotations") or {}).items()
        if key.startswith(f"{GROUP}/") and key != UPGRADE
    }
    word = str(metadata.get("generation", 0))
    return f"{word}-{hashlib.sha256(json.dumps(ours, sort_keys=True).encode()).hexdigest()[:8]}" if ours else word


def recorded(deployment: Object) -> Record | None:
    """The record in the Deployment's annotation; None where there is none, or one that is not ours."""
    text = (deployment["metadata"].get("annotations") or {}).get(ANNOTATION)
    if text is None:
        return None
    try:
        values = json.loads(text)
        move, attempt = values.get("move"), values.get("attempt")
        return Record(
            _rendering(values["current"]),
            None if move is None else Move(_rendering(move["previous"]), int(move["ready"]), str(move["since"])),
            None if attempt is None else Attempt(**attempt),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def adopted(deployment: Object, body: Object, fresh: Rendering) -> Record:
    """The record of a Deployment without one, such as an older operator's: what runs is what was rendered.

    The service's status names the generation; where the status is lost, the last one is assumed.
    """
    seen = (body.get("status") or {}).get("observedGeneration", NEVER)
    if seen not in {NEVER, body["metadata"].get("generation")}:
        return Record(Rendering(UNKNOWN, "", None, _template(deployment)))
    template = _template(deployment)
    pin = None if fresh.pin is None else Pin(fresh.pin.variant, _image(template), "")
    return Record(Rendering(fresh.asked, "", pin, template))


def annotated(manifest: Manifest, record: Record) -> Manifest:
    """The Deployment with the record's template, and the record."""
    metadata = manifest["metadata"]
    annotations = dict(metadata.get("annotations") or {})
    text = json.dumps(_plain(record), separators=(",", ":"), sort_keys=True)
    if len(text.encode()) <= LONGEST:
        annotations[ANNOTATION] = text
    return manifest | {
        "metadata": metadata | {"annotations": annotations},
        "spec": manifest["spec"] | {"template": record.current.template},
    }


def _plain(value: Any) -> Any:
    """The values of `asdict` without its copies: a template is long, and every pass does this."""
    if not isinstance(value, Record | Rendering | Move | Attempt | Pin):
        return value
    return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}


def _rendering(values: Mapping[str, Any]) -> Rendering:
    pin, template = values["pin"], values["template"]
    if not isinstance(template, dict) or not template:
        raise TypeError
    return Rendering(str(values["asked"]), str(values["release"]), None if pin is None else Pin(**pin), template)


def _template(deployment: Object) -> Manifest:
    template: Any = deepcopy(deployment["spec"]["template"])
    template.get("metadata", {}).pop("creationTimestamp", None)
    return dict(template)


def _image(template: Mapping[str, Any]) -> str:
    containers = template.get("spec", {}).get("containers", ())
    return next((str(each.get("image", "")) for each in containers if each.get("name") == "engine"), "")
