"""Checks that the engine runs every part of the model: the description's features against those of the executors.

Known for the version whose `octavo_models` this is; of another version's image it is not, and nothing is blocked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from octavo_models import ModelSpec
from octavo_models.features import Executor, features_of, unsupported
from octavo_operator.api.flags import canonical
from octavo_operator.api.reasons import FitReason
from octavo_operator.api.v1alpha1 import LLMService
from octavo_operator.planner.engine_flags import parsed_version
from octavo_operator.planner.images import Reference, image_of, variant_of
from octavo_operator.planner.plan import Fit, Hardware
from octavo_operator.runtimes import RUNTIMES, runtime_of
from octavo_operator.settings import Settings


def judged(fit: Fit, service: LLMService, spec: ModelSpec | None, hardware: Hardware, settings: Settings) -> Fit:
    """The verdict about memory, or the one about the model's parts where that is graver."""
    engine = service.spec.engine
    executors = _executors(service, hardware, settings)
    needed = None if spec is None else next(features_of(spec), None)
    if spec is None or needed is None or not executors:
        return fit
    if not _is_own_version(service, hardware, settings):
        return _not_known(fit, needed[1], image_of(engine, hardware, settings))
    missing = {executor: unsupported(spec, executor) for executor in executors}
    if None in missing.values():
        return fit
    lacking = " and ".join(f"the {executor} executor does not support {what}" for executor, what in missing.items())
    message = f"Octavo's engine can't run {spec.architecture}: {lacking}"
    return replace(
        fit,
        state="False",
        reason=FitReason.MODEL_NOT_SUPPORTED,
        message=message,
        remedy=_remedy(service, spec, hardware),
    )


def _executors(service: LLMService, hardware: Hardware, settings: Settings) -> tuple[Executor, ...]:
    """The executors that may run it: the one that `engine.args` names, or the hardware's and what stands in for it."""
    usual = runtime_of(service.spec.engine).executors.get(hardware.vendor, ())
    if not usual:
        return ()
    match _value_of("--executor", service.spec.engine.args):
        case "native":
            return ("native",)
        case "torch":
            return ("torch",)
    return (*usual, "torch") if settings.torch_on_cpu and "torch" not in usual else usual


def _value_of(flag: str, args: Sequence[str]) -> str | None:
    """The value that counts: the last one."""
    found = None
    for index, word in enumerate(args):
        if canonical(word) == flag:
            _, equals, value = word.partition("=")
            found = value if equals else next(iter(args[index + 1 :]), None)
    return found


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


def _remedy(service: LLMService, spec: ModelSpec, hardware: Hardware) -> str:
    """Other hardware, where its executor has all parts; another runtime, which may have them."""
    remedies = []
    if hardware.vendor == "cpu" and unsupported(spec, "torch") is None:
        remedies.append("accelerator.vendor: nvidia")
    if hardware.gpus == 1 and unsupported(spec, "native") is None:
        remedies.append("accelerator.vendor: cpu")
    remedies += [
        f"engine.runtime: {name}"
        for name, runtime in RUNTIMES.items()
        if not runtime.executors and service.spec.model.uri.scheme in runtime.schemes
    ]
    return f"set {', or '.join(remedies)}" if remedies else "name another model in model.uri"
