"""The torch executor with packed weights on a CPU, where it would widen them: as on a GPU, over the plain operations."""

from __future__ import annotations

import torch

from octavo_engine.config import EngineConfig, ModelFiles
from octavo_engine.executors.torch.executor import TorchExecutor
from octavo_engine.kernels.reference_operations import ReferenceOperations
from octavo_models.spec import ModelSpec


class PackedReference(ReferenceOperations):
    prefers_packed = True


def packed_executor(config: EngineConfig, spec: ModelSpec, files: ModelFiles) -> TorchExecutor:
    return TorchExecutor(config, spec, files, torch.device("cpu"), operations=PackedReference())
