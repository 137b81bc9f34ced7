"""Finds the Secrets and ConfigMaps of a manifest without a cluster: in the same file, or named by a flag."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from octavo_operator.api.manifest import Manifest
from octavo_operator.errors import LocalError

_Value = TypeVar("_Value", str, bytes)


@dataclass(frozen=True, slots=True)
class References:
    """Values by object and key. A file given by a flag stands for every key of its object, and wins."""

    secrets: Mapping[str, Mapping[str, bytes]]
    config_maps: Mapping[str, Mapping[str, str]]
    secret_files: Mapping[str, Path]
    config_map_files: Mapping[str, Path]

    @classmethod
    def of(cls, manifest: Manifest, secret_files: list[str], config_map_files: list[str]) -> References:
        """The flags are written NAME=FILE. Raises LocalError."""
        return cls(
            manifest.secrets,
            manifest.config_maps,
            dict(_named_file("--secret", text) for text in secret_files),
            dict(_named_file("--config-map", text) for text in config_map_files),
        )

    def secret(self, name: str, key: str, why: str) -> str:
        """The value, without the line break that files end with. Raises LocalError that names it and the remedy."""
        if name in self.secret_files:
            return _read(self.secret_files[name]).strip()
        value = _value(self.secrets, "Secret", name, key, why, "--secret")
        try:
            return value.decode().strip()
        except UnicodeDecodeError as error:
            raise LocalError(f"Secret {name}: {key} is not UTF-8 text, and {why} needs it to be") from error

    def has_secret(self, name: str) -> bool:
        return name in self.secret_files or name in self.secrets

    def config_map(self, name: str, key: str, why: str) -> str:
        """The value, verbatim. Raises LocalError that names it and the remedy."""
        if name in self.config_map_files:
            return _read(self.config_map_files[name])
        return _value(self.config_maps, "ConfigMap", name, key, why, "--config-map")


def _value(objects: Mapping[str, Mapping[str, _Value]], kind: str, name: str, key: str, why: str, flag: str) -> _Value:
    if name not in objects:
        raise LocalError(
            f"{why} refers to {kind} {name}, which is not in the file; add it there as a further document, "
            f"or give its value by {flag} {name}=FILE"
        )
    if key not in objects[name]:
        keys = ", ".join(objects[name]) or "nothing"
        raise LocalError(f"{why} refers to the key {key} of {kind} {name}, which holds {keys}")
    return objects[name][key]


def _named_file(flag: str, text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise LocalError(f"{flag} {text}: write {flag} NAME=FILE")
    return name, Path(path)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise LocalError(f"{path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LocalError(f"{path} is not UTF-8 text") from error
