"""Descriptions of decoders: from a config or GGUF metadata to a `ModelSpec` with exact sizes.

Pure: no torch, no numpy, no files. The planner and the engine use the same description, so that the planner's verdict
holds for what the engine loads.
"""

from octavo_models.errors import InvalidConfigError, ModelError, UnsupportedModelError
from octavo_models.hf_checkpoint import from_hf_checkpoint
from octavo_models.reading import from_gguf, from_gguf_header, from_hf_config
from octavo_models.spec import KVGroup, KVLayout, ModelSpec

__all__ = [
    "InvalidConfigError",
    "KVGroup",
    "KVLayout",
    "ModelError",
    "ModelSpec",
    "UnsupportedModelError",
    "from_gguf",
    "from_gguf_header",
    "from_hf_checkpoint",
    "from_hf_config",
]
