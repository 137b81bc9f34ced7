"""The common part of `octavo plan` and `octavo render`: names a manifest and its model, and plans its services."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from octavo_operator.api.manifest import Manifest, read_manifest
from octavo_operator.api.observed import Observed
from octavo_operator.api.v1alpha1 import LLMService
from octavo_operator.description.sources import describe
from octavo_operator.errors import ManifestError, ModelUnknownError
from octavo_operator.planner import Plan, plan
from octavo_operator.settings import Settings


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The manifest, one of its services, and where the model's description comes from."""
    parser.add_argument("-f", "--file", required=True, metavar="FILE", help="manifest; - is standard input")
    parser.add_argument("--name", help="only the LLMService of this name")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--config", type=Path, metavar="FILE", help="config.json or GGUF that describes the model")
    model.add_argument("--model-dir", type=Path, metavar="FOLDER", help="folder that holds the model")
    parser.add_argument("--offline", action="store_true", help="do not ask the hub for a config.json")


def run(
    program: str,
    options: argparse.Namespace,
    show: Callable[[Manifest, list[Plan]], None],
    *,
    namespace: str | None = None,
    service_monitors: bool = False,
) -> int:
    """Plan the services and show them. `namespace` replaces the manifest's.

    Exit status: 0 planned; 1 refused, with the remedy; 2 the manifest or a file is wrong.
    """

    def planned(service: LLMService) -> Plan:
        if namespace is not None:
            metadata = service.metadata.model_copy(update={"namespace": namespace})
            service = service.model_copy(update={"metadata": metadata})
        found = describe(
            service.spec.model,
            config=options.config,
            folder=options.model_dir,
            annotations=service.metadata.annotations,
            offline=options.offline,
        )
        known = True if service_monitors else None
        observed = Observed(
            found.spec, found.why_unknown, found.undescribed, model_bytes=found.size, service_monitors=known
        )
        return plan(service, observed, Settings())

    try:
        manifest = read_manifest(options.file)
        services = manifest.services if options.name is None else (manifest.service(options.name),)
        plans = [planned(service) for service in services]
    except (ManifestError, ModelUnknownError) as error:
        print(f"{program}: {error}", file=sys.stderr)  # noqa: T201
        return 2
    show(manifest, plans)
    return 1 if any(each.refusal for each in plans) else 0
