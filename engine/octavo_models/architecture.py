"""An architecture: the names that models call it by, and a reader for each kind of model file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.spec_draft import SpecDraft


@dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture. Without a `gguf_name` it has no GGUF files, or they go by another architecture's name."""

    hf_classes: tuple[str, ...]  # as `architectures` in a config.json names them
    from_hf: Callable[[HfConfig], SpecDraft]
    gguf_name: str | None = None  # `general.architecture`
    from_gguf: Callable[[GgufMetadata], SpecDraft] | None = None
    model_type: str | None = None  # where transformers saves the family under another one's class
