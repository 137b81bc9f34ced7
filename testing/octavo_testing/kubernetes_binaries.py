"""The builder of scripts/kubernetes/, which is no package, as a module that tests import."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

BUILDER = Path(__file__).parents[2] / "scripts" / "kubernetes" / "build.py"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kubernetes_build", BUILDER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


build = _load()


def binaries() -> Path:
    """The folder with etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kubectl."""
    folder: Path = build.binaries()
    return folder
