"""The API keys that clients may send: by flag, by a file that may change while it is served from, or by the environment.

A Secret that is mounted as a file follows its object within a minute or two; environment variables do not.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

from octavo_engine.errors import ConfigError

VARIABLES = ("OCTAVO_API_KEY", "VLLM_API_KEY")
FILE_VARIABLE = "OCTAVO_API_KEY_FILE"
PAUSE_S = 1.0  # between two checks of the file

log = logging.getLogger(__name__)


def configured(given: Sequence[str] | None, file: str | None) -> tuple[tuple[str, ...], str | None]:
    """Keys that stay, and the file that holds further ones. A flag comes before the environment, a file before a key.

    Raises:
        ConfigError: a key is one that no client can send, or the file can't be read or holds none.
    """
    file = file or (None if given else os.environ.get(FILE_VARIABLE)) or None
    if file is not None:
        read(Path(file))
    if given:
        return tuple(_sendable("--api-key", key) for key in given), file
    if file is not None:
        return (), file
    found = [(name, os.environ[name]) for name in VARIABLES if os.environ.get(name)]
    return tuple(_sendable(name, key) for name, key in found[:1]), None


def read(file: Path) -> tuple[str, ...]:
    """One key a line. Raises ConfigError."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--api-key-file {file} can't be read: {error}") from error
    keys = tuple(_sendable(f"--api-key-file {file}", line) for line in lines if line.strip())
    if not keys:
        raise ConfigError(f"--api-key-file {file} holds no key, and would guard nothing: write one a line")
    return keys


class ApiKeys:
    """The keys as they are now. A file that can't be used leaves those that were last read, so that nothing opens."""

    def __init__(self, given: tuple[str, ...], file: str | None) -> None:
        self._given = given
        self._file = None if file is None else Path(file)
        self._read: tuple[str, ...] = ()
        self._stamp: object = None
        self._next_look = 0.0  # monotonic

    def __bool__(self) -> bool:
        return bool(self._given) or self._file is not None

    def current(self) -> tuple[str, ...]:
        """Reads the file at most once in `PAUSE_S` seconds."""
        if self._file is not None and time.monotonic() >= self._next_look:
            self._look(self._file)
            self._next_look = time.monotonic() + PAUSE_S
        return (*self._given, *self._read)

    def _look(self, file: Path) -> None:
        try:
            state = file.stat()
            stamp: object = (state.st_ino, state.st_mtime_ns, state.st_size)
        except OSError as error:
            stamp = str(error)
        if stamp == self._stamp:
            return
        again, self._stamp = self._stamp is not None, stamp
        try:
            self._read = read(file)
        except ConfigError as error:
            log.warning("the API keys stay as they were: %s", error)
        else:
            if again:
                log.info("the API keys were read again: %s holds %d", file, len(self._read))


def _sendable(where: str, key: str) -> str:
    """`key` without the white space around it, such as a file's last newline, which no client can send."""
    key = key.strip()
    if not key:
        raise ConfigError(f"{where} is empty or white space, which would guard nothing: give a key, or leave it out")
    if not key.isprintable():
        raise ConfigError(
            f"{where} holds a line break or another control character in its middle, which no client can send in a "
            "header: give a key of one line"
        )
    return key
