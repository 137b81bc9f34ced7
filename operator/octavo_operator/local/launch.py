"""Turns a plan into what one replica is started with on this machine: arguments, environment, cores."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from octavo_operator.api.placement import Accelerator
from octavo_operator.api.v1alpha1 import LLMService
from octavo_operator.errors import LocalError
from octavo_operator.local.machine_gpus import divide_gpus
from octavo_operator.local.references import References
from octavo_operator.planner.hardware import hardware_of
from octavo_operator.planner.plan import Env, Plan
from octavo_operator.runtimes import OCTAVO, RUNTIMES

LOOPBACK = "127.0.0.1"
OF_THE_CONTAINER = {
    OCTAVO.variables.hub_cache,
    OCTAVO.variables.model_cache,
    OCTAVO.variables.hub_offline,
    OCTAVO.variables.api_key_file,
}  # the pod's volume: this machine has its own cache
UTF8_MODE = {"PYTHONUTF8": "1"}  # in any locale: its arguments and lines are text of a manifest


@dataclass(frozen=True, slots=True)
class Launch:
    """All that does not change between two starts of a replica; the port does."""

    plan: Plan
    model: str | None  # a folder in place of the plan's
    chat_template: str | None  # its text; None: the plan's
    env: Mapping[str, str]
    cores: frozenset[int] | None  # None: any

    def arguments(self, port: int) -> tuple[str, ...]:
        """The engine's arguments for a start on this port of the loopback."""
        return self.plan.engine.line(LOOPBACK, port, model=self.model, chat_template=self.chat_template)


def for_this_machine(service: LLMService, *, cpu: bool, gpus: Sequence[str]) -> tuple[LLMService, str | None]:
    """The service as it can run here, and a remark where that differs from the manifest.

    With the GPUs that it needs it runs on them, unless the manifest has `vendor: cpu`, or `cpu` is set. Without them, a
    manifest without an accelerator runs on the CPU; one that requests GPUs does so only with `cpu`. Raises LocalError.
    """
    spec = service.spec
    if spec.engine.runtime not in RUNTIMES or not RUNTIMES[spec.engine.runtime].runs_locally:
        raise LocalError(
            f"engine.runtime {spec.engine.runtime} runs in its own image, on a cluster; octavo up runs octavo's engine"
        )
    asked = spec.accelerator
    if asked is not None and asked.vendor == "cpu":
        return service, None
    ranks = hardware_of(spec).gpus
    if len(gpus) >= ranks and not cpu:
        return service, f"it runs on NVIDIA GPUs of this machine: {ranks} of {len(gpus)} a replica"
    if asked is not None and not cpu:
        number = "an NVIDIA GPU" if ranks == 1 else f"{ranks} NVIDIA GPUs"
        has = f"octavo up finds {len(gpus)}" if gpus else "octavo up finds none here that torch could use"
        raise LocalError(
            f"{service.metadata.name} asks for {number}, and {has}; --cpu runs it on this machine's CPU anyway"
        )
    engine = spec.engine.model_copy(update={"tensor_parallel_size": 1, "pipeline_parallel_size": 1})
    changed = spec.model_copy(update={"accelerator": Accelerator(vendor="cpu"), "engine": engine})
    why = "the manifest names no accelerator" if asked is None else "--cpu"
    divided = "" if ranks == 1 else f", undivided: the manifest's {ranks} ranks are for GPUs"
    return service.model_copy(update={"spec": changed}), f"it runs on the CPU: {why}{divided}"


def launches(
    service: LLMService,
    plan: Plan,
    replicas: int,
    references: References,
    model: Path | None,
    gpus: Sequence[str],
) -> tuple[Launch, ...]:
    """Return one launch for each replica. Raises LocalError."""
    uri = service.spec.model.uri
    if uri.scheme == "pvc" and model is None:
        raise LocalError(
            f"{uri} is a volume of the cluster; give the model's folder on this machine with --model-dir FOLDER"
        )
    template, wanted = None, service.spec.model.chat_template
    if wanted is not None and wanted.config_map is not None:
        text = references.config_map(*wanted.config_map, "spec.model.chatTemplate")
        # The engine takes a template's text as well as a path, and distinguishes them by a line break: no file of ours
        # stays behind, however this ends.
        template = text if text.endswith("\n") else f"{text}\n"
    env = _environment(plan.engine.env, references)
    shares = divide_gpus(gpus, replicas, plan.hardware.gpus)
    return tuple(
        Launch(plan, None if model is None else str(model), template, env | share, cores)
        for share, cores in zip(shares, divide_cores(replicas), strict=True)
    )


def divide_cores(replicas: int) -> Sequence[frozenset[int] | None]:
    """The cores that this process may use, divided: an engine runs one thread for each core that it may use, and with
    more threads than cores every operation of a model waits for the thread that has no core."""
    cores = sorted(os.sched_getaffinity(0))
    if replicas == 1:
        return [None]
    if len(cores) <= replicas:
        return [frozenset({cores[i % len(cores)]}) for i in range(replicas)]
    return [frozenset(cores[i::replicas]) for i in range(replicas)]


def _environment(wanted: Sequence[Env], references: References) -> dict[str, str]:
    env = dict(os.environ) | UTF8_MODE
    for variable in wanted:
        if variable.name in OF_THE_CONTAINER and variable.value is not None:
            continue
        if variable.value_from is None:
            env[variable.name] = variable.value or ""
            continue
        value = _resolved(variable, references)
        if value is not None:
            env[variable.name] = value
    return env


def _resolved(variable: Env, references: References) -> str | None:
    assert variable.value_from is not None
    ((source, selector),) = variable.value_from.items()
    why = f"environment variable {variable.name}"
    if source not in {"secretKeyRef", "configMapKeyRef"}:
        raise LocalError(f"{why} comes from {source}, which only a pod has; give it a value to run it here")
    name, key = selector["name"], selector["key"]
    if source == "configMapKeyRef":
        return references.config_map(name, key, why)
    # A token that the user already has in the environment serves as well as the cluster's.
    if not references.has_secret(name) and os.environ.get(variable.name):
        return None
    value = references.secret(name, key, why)
    if variable.name == OCTAVO.variables.api_key and "\n" in value:
        raise LocalError(f"Secret {name}: {key} holds several lines, and the engine takes one API key")
    return value
