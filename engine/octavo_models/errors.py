"""The exceptions of octavo_models.

ModelError
├── UnsupportedModelError   an architecture or a feature that no executor runs
│   └── UnsupportedFormatError  weights in a format that no executor reads
└── InvalidConfigError      a config or metadata that contradicts itself
    ├── DamagedFileError    a file that isn't what its name says, is cut short, or contradicts itself
    ├── PointerFileError    what git keeps in place of a large file
    └── MismatchError       weights that are not those of the config or metadata beside them
"""


class ModelError(ValueError):
    """A model's description can't be used; the message says which part and what to do."""


def with_remedy(error: ModelError) -> str:
    """The message of `error` about a file of a model, with what to do, which errors of single fields don't say."""
    return f"{error}; correct it, or fetch the file again" if type(error) is InvalidConfigError else str(error)


class UnsupportedModelError(ModelError):
    """The architecture, or a feature of it, is not supported."""


class UnsupportedFormatError(UnsupportedModelError):
    """The weights' format is not supported, however the model is computed."""


class InvalidConfigError(ModelError):
    """A field of the config is missing, of the wrong type, or contradicts another."""


class DamagedFileError(InvalidConfigError):
    """A file of weights can't be read as one."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem}; fetch the file again")


class PointerFileError(InvalidConfigError):
    """A Git LFS pointer is in the place of a file; the message says how to get it."""


class MismatchError(InvalidConfigError):
    """A tensor is missing, or has another shape than the description gives it."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem}; fetch all files of the model again, from one place")
