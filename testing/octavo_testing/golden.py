"""Texts that are held as files: what changes in them is seen before it is committed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def assert_golden(text: str, file: Path) -> None:
    """`text` is what `file` holds. OCTAVO_UPDATE_GOLDEN=1 writes another text to it, and fails: no run that writes a
    file proves anything. In CI nothing is written.
    """
    held = file.read_text(encoding="utf-8") if file.exists() else None
    if text != held and os.environ.get("OCTAVO_UPDATE_GOLDEN") and not os.environ.get("CI"):
        file.write_text(text, encoding="utf-8")
        pytest.fail(f"{file.name} has been written: read the diff, then run this without OCTAVO_UPDATE_GOLDEN")
    assert text == held
