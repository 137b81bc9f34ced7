"""The exceptions of octavo_models.

ModelError
├── UnsupportedModelError   an architecture or a feature that no executor runs
└── InvalidConfigError      a config or metadata that contradicts itself
"""


class ModelError(ValueError):
    """A model's description can't be used; the message says which part and what to do."""


class UnsupportedModelError(ModelError):
    """The architecture, or a feature of it, is not supported."""


class InvalidConfigError(ModelError):
    """A field of the config is missing, of the wrong type, or contradicts another."""
