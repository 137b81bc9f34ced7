"""Checks that the engine runs every part of the model: the description's features against those of the executors.

Known for the version whose `octavo_models` this is; of another version's image it is not, and nothing is blocked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from octavo_models import ModelSpec
from octavo_models.features import Executor, features_of, unsupported
from octavo_operator.api.observed import Observed
from octavo_operator.api.reasons import FitReason
from octavo_operator.api.v1alpha1 import LLMService
from octavo_operator.planner.engine_flags import parsed_version
from octavo_operator.planner.given_flags import values
from octavo_operator.planner.images import Reference, image_of, variant_of
from octavo_operator.planner.plan import Fit, Hardware
from octavo_operator.runtimes import RUNTIMES, runtime_of
from octavo_operator.settings import Settings


def judged(fit: Fit, service: LLMService, observed: Observed, hardware: Hardware, settings: Settings) -> Fit:
    """The verdict about memory, or the one about the model's parts where that is graver."""
    executors, spec = _executors(service, hardware, settings), observed.model
    if not executors:
        return fit
    by_transformers = _by_transformers(service, observed, executors)
    needed = None if spec is None else next(features_of(spec), None)
    if needed is None and not observed.undescribed and not by_transformers:
        return fit
    if not _is_own_version(service, hardware, settings):
        image = image_of(service.spec.engine, hardware, settings)
        return fit if needed is None else _not_known(fit, needed[1], image)
    if by_transformers:
        return _left_to_transformers(fit, service, observed, hardware, executors)
    if spec is None:
        return _refused(fit, service, observed, hardware, observed.undescribed)
    missing = {executor: unsupported(spec, executor) for executor in executors}
    if None in missing.values():
        return fit
    lacking = " and ".join(f"the {executor} executor does not support {what}" for executor, what in missing.items())
    return _refused(fit, service, observed, hardware, lacking)


def _by_transformers(service: LLMService, observed: Observed, executors: Sequence[Executor]) -> bool:
    """True if the engine leaves the model to transformers (octavo_engine.engine.loader)."""
    implementation = values(service.spec.engine.args).get("--model-impl") or "auto"
    if implementation != "auto":
        return implementation == "transformers"
    if observed.model is None:
        return bool(observed.undescribed)
    runs = any(unsupported(observed.model, executor) is None for executor in executors)
    return not runs and _obstacle(service, executors) is None


def _obstacle(service: LLMService, executors: Sequence[Executor]) -> tuple[str, str] | None:
    """The reason why transformers can't compute any model here, and the field that changes that; None if it can."""
    engine = service.spec.engine
    if "torch" not in executors:
        return "needs the torch executor", "accelerator.vendor: nvidia"
    if engine.pipeline_parallel_size > 1:
        return "has one stage", "engine.pipelineParallelSize: 1"
    return None


def _left_to_transformers(
    fit: Fit, service: LLMService, observed: Observed, hardware: Hardware, executors: Sequence[Executor]
) -> Fit:
    """The verdict on a model whose start alone shows if its own layers run over KV blocks: nothing is blocked that may."""
    why = observed.undescribed or "it is left to transformers"
    obstacle = _obstacle(service, executors)
    if obstacle is not None:
        return _refused(
            fit,
            service,
            observed,
            hardware,
            f"{why}, and transformers, which may compute it, {obstacle[0]}",
            obstacle[1],
        )
    if fit.state == "False":
        return fit
    message = f"{why}; transformers computes it, more slowly, if its layers run over KV blocks, which its start shows"
    if fit.state == "True":
        message = f"{fit.message}; {message}"
    return replace(fit, state="Unknown", reason=FitReason.SUPPORT_UNKNOWN, message=message)


def _refused(
    fit: Fit, service: LLMService, observed: Observed, hardware: Hardware, why: str, remedy: str | None = None
) -> Fit:
    name = "the model" if observed.model is None else observed.model.architecture
    return replace(
        fit,
        state="False",
        reason=FitReason.MODEL_NOT_SUPPORTED,
        message=f"Octavo's engine can't run {name}: {why}",
        remedy=_remedy(service, observed.model, hardware, remedy),
    )


def _executors(service: LLMService, hardware: Hardware, settings: Settings) -> tuple[Executor, ...]:
    """The executors that may run it: the one that `engine.args` names, or the hardware's and what stands in for it."""
    usual = runtime_of(service.spec.engine).executors.get(hardware.vendor, ())
    if not usual:
        return ()
    match values(service.spec.engine.args).get("--executor"):
        case "native":
            return ("native",)
        case "torch":
            return ("torch",)
    return (*usual, "torch") if settings.torch_on_cpu and "torch" not in usual else usual


def _is_own_version(service: LLMService, hardware: Hardware, settings: Settings) -> bool:
    engine = service.spec.engine
    if variant_of(engine, hardware) is None:
        return False
    tag = Reference.parse(image_of(engine, hardware, settings)).tag
    version = parsed_version(tag or "") or parsed_version(settings.version)
    return version is not None and version == parsed_version(settings.own_version)


def _not_known(fit: Fit, part: str, image: str) -> Fit:
    if fit.state == "False":
        return fit
    message = (
        f"{fit.message}; the model needs {part}, and whether {image} runs that is not known: it is of another version"
    )
    reason = FitReason.SUPPORT_UNKNOWN if fit.state == "True" else fit.reason
    return replace(fit, state="Unknown", reason=reason, message=message)


def _remedy(service: LLMService, spec: ModelSpec | None, hardware: Hardware, first: str | None) -> str:
    """The field `first`; other hardware, where its executor has all parts; another runtime, which may have them."""
    remedies = [] if first is None else [first]
    if hardware.vendor == "cpu" and spec is not None and unsupported(spec, "torch") is None:
        remedies.append("accelerator.vendor: nvidia")
    if hardware.gpus == 1 and spec is not None and unsupported(spec, "native") is None:
        remedies.append("accelerator.vendor: cpu")
    others = [
        name
        for name, runtime in RUNTIMES.items()
        if not runtime.executors
        and service.spec.model.uri.scheme in runtime.schemes
        and hardware.vendor in runtime.images
    ]
    if others:
        remedies.append(f"engine.runtime: {' or '.join(others)}")
    return f"set {', or '.join(dict.fromkeys(remedies))}" if remedies else "name another model in model.uri"
