"""The refusal of a model that needs what an executor does not run."""

from __future__ import annotations

from importlib.util import find_spec

from octavo_engine.errors import ExecutorError
from octavo_models.features import Executor, unsupported
from octavo_models.outline import Model


def refuse_unsupported(spec: Model, executor: Executor) -> None:
    """Raise ExecutorError for the first feature of `spec` that the executor lacks; it names the feature and a remedy."""
    missing = unsupported(spec, executor)
    if missing is None:
        return
    other: Executor = "torch" if executor == "native" else "native"
    if unsupported(spec, other) is not None:
        remedy = "choose another model"
    elif other == "torch" and find_spec("torch") is None:
        remedy = (
            "--executor torch runs it, and needs torch: pip install torch, or take the image whose tag ends in -cuda"
        )
    else:
        remedy = f"--executor {other} runs it"
    raise ExecutorError(
        f"the {executor} executor can't run {spec.architecture}: it does not support {missing}; {remedy}"
    )
