"""Chooses a replica's image: the manifest's, completed from the default of its runtime and accelerator."""

from __future__ import annotations

from dataclasses import dataclass

from octavo_operator.api.engine import Engine, Image
from octavo_operator.api.reasons import SpecReason
from octavo_operator.api.refusal import Refusal
from octavo_operator.planner.plan import Hardware
from octavo_operator.runtimes import RUNTIMES, runtime_of
from octavo_operator.settings import Settings


@dataclass(frozen=True, slots=True)
class Reference:
    """`[REGISTRY[:PORT]/]REPOSITORY[:TAG][@DIGEST]`; `repository` includes the registry."""

    repository: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """A colon before the last slash is a registry's port."""
        name, _, digest = text.partition("@")
        folder, slash, last = name.rpartition("/")
        last, _, tag = last.partition(":")
        return cls(f"{folder}{slash}{last}", tag or None, digest or None)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.repository}{tag}" if self.digest is None else f"{self.repository}@{self.digest}"


def image_of(engine: Engine, hardware: Hardware, settings: Settings) -> str:
    """The image; empty where neither manifest nor settings name one. A repository has its own tags and digests."""
    given, default = engine.image, _default(engine, hardware, settings)
    if given is None:
        return default
    known = Reference.parse(default)
    if given.repository is not None:
        return str(Reference(given.repository, given.tag, given.digest))
    if not known.repository:
        return ""
    if given.tag is None and given.digest is None:
        return default
    return str(Reference(known.repository, given.tag, given.digest))


def refusal(engine: Engine, hardware: Hardware, settings: Settings) -> Refusal | None:
    """The refusal where the runtime has no image for the accelerator, or none is known; None where one is."""
    key, where = _key(engine, hardware), "GPUs" if hardware.gpus else "CPUs"
    if key is None:
        others = " or ".join(each.name for each in RUNTIMES.values() if hardware.vendor in each.images)
        message = f"engine.runtime {engine.runtime} does not run on {where}"
        return Refusal(SpecReason.RUNTIME, message, f"set engine.runtime: {others}")
    if image_of(engine, hardware, settings):
        return None
    return Refusal(
        SpecReason.IMAGE_UNKNOWN,
        f"the operator has no default image of {engine.runtime} for {where}",
        f"set engine.image.repository and engine.image.tag, or the operator's --image {key}=IMAGE",
    )


def variant_of(engine: Engine, hardware: Hardware) -> str | None:
    """Key of `Settings.images` of the default that the service takes; None where the manifest names its image."""
    return None if engine.image is not None and _is_named(engine.image) else _key(engine, hardware)


def _is_named(image: Image) -> bool:
    return any(part is not None for part in (image.repository, image.tag, image.digest))


def _default(engine: Engine, hardware: Hardware, settings: Settings) -> str:
    return settings.images.get(_key(engine, hardware) or "", "")


def _key(engine: Engine, hardware: Hardware) -> str | None:
    return runtime_of(engine).images.get(hardware.vendor)
