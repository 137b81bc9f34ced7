"""The version of Octavo that answers."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def own_version() -> str:
    """The version of the package that is installed here."""
    try:
        return version("octavo")
    except PackageNotFoundError:
        return "0+unknown"
