"""`octavo up -f FILE`: runs an LLMService on this machine, by the plan that a cluster would get."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from octavo_operator.api.manifest import read_manifest
from octavo_operator.api.observed import Observed
from octavo_operator.api.reasons import SpecReason
from octavo_operator.api.v1alpha1 import LLMService
from octavo_operator.description.sources import describe
from octavo_operator.errors import LocalError, ManifestError, ModelUnknownError
from octavo_operator.planner import Plan, plan
from octavo_operator.planner.sizes import human
from octavo_operator.settings import Settings


def main(argv: Sequence[str] | None = None, settings: Settings | None = None) -> int:
    """Exit status: 0 stopped as asked; 1 it can't run here; 2 the manifest or the engine's configuration is wrong."""
    options = _parser().parse_args(argv)
    try:
        return _run(options, settings or Settings())
    except (ManifestError, ModelUnknownError) as error:
        print(f"octavo up: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except LocalError as error:
        print(f"octavo up: {error}", file=sys.stderr)  # noqa: T201
        return 1


def _run(options: argparse.Namespace, settings: Settings) -> int:
    from octavo_operator.local import launch  # noqa: PLC0415 — a wrong manifest is reported without aiohttp
    from octavo_operator.local.display import display_for  # noqa: PLC0415
    from octavo_operator.local.machine_gpus import usable_gpus  # noqa: PLC0415
    from octavo_operator.local.references import References  # noqa: PLC0415
    from octavo_operator.local.supervisor import Supervisor, names_of  # noqa: PLC0415

    manifest = read_manifest(options.file)
    gpus = () if options.cpu else usable_gpus()
    service, remark = launch.for_this_machine(manifest.service(options.name), cpu=options.cpu, gpus=gpus)
    references = References.of(manifest, options.secret, options.config_map)
    found = describe(service.spec.model, folder=options.model_dir, offline=True)
    settings = replace(settings, torch_on_cpu=find_spec("torch") is not None)
    observed = Observed(found.spec, found.why_unknown, found.undescribed, model_bytes=found.size)
    made = plan(service, observed, settings)
    if made.refusal is not None and not (made.refusal.reason == SpecReason.SCHEME and options.model_dir):
        raise LocalError(f"{made.refusal.message}; {made.refusal.remedy}")
    replicas = _replicas(made, options.replicas)
    starts = launch.launches(service, made, replicas, references, options.model_dir, gpus)
    with display_for(names_of(made, replicas)) as display:
        for line in _remarks(service, made, replicas, remark):
            display.show(line)
        supervisor = Supervisor(made, starts, options.port or made.service_port, settings, display)
        return asyncio.run(supervisor.run())


def _replicas(made: Plan, wanted: int | None) -> int:
    """The flag's, the manifest's, or the least that autoscaling keeps. Raises LocalError."""
    count = made.scale.minimum if wanted is None else wanted
    if count < 1:
        raise LocalError(f"{made.name} has no replicas (spec.suspend or replicas: 0); --replicas 1 runs one")
    return count


def _remarks(service: LLMService, made: Plan, replicas: int, remark: str | None) -> list[str]:
    """The differences from a cluster, a line each."""
    lines = [f"{made.name}: {made.model_summary}"]
    if remark is not None:
        lines.append(remark)
    if service.spec.autoscaling is not None:
        lines.append(f"{replicas} of up to {made.scale.maximum} replicas: nothing scales without a cluster")
    budget, free = made.fit.budget, _available_memory()
    if budget is not None and free is not None:
        needed = replicas * (budget.weights + budget.overhead + (made.limits.kv_cache_bytes or 0))
        if needed > free:
            lines.append(f"it may take {human(needed)}, and {human(free)} of this machine's memory are free")
    return lines


def _available_memory() -> int | None:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="octavo up", description="Run an LLMService on this machine.")
    parser.add_argument("-f", "--file", required=True, metavar="FILE", help="manifest; - is standard input")
    parser.add_argument("--name", help="which LLMService, where the file holds several")
    parser.add_argument("--port", type=int, metavar="N", help="port in place of the Service's")
    parser.add_argument("--replicas", type=int, metavar="N", help="replicas in place of the manifest's")
    parser.add_argument("--cpu", action="store_true", help="run on the CPU a service that requests GPUs")
    parser.add_argument("--model-dir", type=Path, metavar="FOLDER", help="folder that holds the model")
    parser.add_argument("--secret", action="append", default=[], metavar="NAME=FILE", help="a Secret's value")
    parser.add_argument("--config-map", action="append", default=[], metavar="NAME=FILE", help="a ConfigMap's value")
    return parser
