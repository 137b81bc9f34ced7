"""OCTAVO_NATIVE_MODULE names the built module to test instead of the installed one (scripts/test-sanitize.sh)."""

from __future__ import annotations

import importlib.util
import os
import sys

_path = os.environ.get("OCTAVO_NATIVE_MODULE")
if _path:
    import octavo_engine.executors.native as _package

    _name = f"{_package.__name__}._native"
    _spec = importlib.util.spec_from_file_location(_name, _path)
    sys.modules[_name] = _package._native = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[_name])
