"""`octavo render -f FILE`: the objects that the operator would apply, as YAML for kubectl. Changes nothing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from octavo_operator.api.manifest import read_manifest
from octavo_operator.api.observed import Observed
from octavo_operator.api.v1alpha1 import LLMService
from octavo_operator.children import Manifest, render
from octavo_operator.description.sources import describe
from octavo_operator.errors import ManifestError, ModelUnknownError
from octavo_operator.planner import Plan, plan
from octavo_operator.settings import Settings
from octavo_operator.verbs import printout


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 rendered; 1 refused, with the remedy; 2 the manifest or a file is wrong."""
    options = _parser().parse_args(argv)
    try:
        manifest = read_manifest(options.file)
        services = manifest.services if options.name is None else (manifest.service(options.name),)
        plans = [_plan(service, options) for service in services]
    except (ManifestError, ModelUnknownError) as error:
        print(f"octavo render: {error}", file=sys.stderr)  # noqa: T201
        return 2
    for each in plans:
        if each.refusal is not None:
            why = f"{each.refusal.reason}: {each.refusal.message}; {each.refusal.remedy}"
            print(f"octavo render: {each.name}: {why}", file=sys.stderr)  # noqa: T201
    print(_shown([each for made in plans for each in render(made)], options.output))  # noqa: T201
    return 1 if any(each.refusal for each in plans) else 0


def _plan(service: LLMService, options: argparse.Namespace) -> Plan:
    if options.namespace is not None:
        metadata = service.metadata.model_copy(update={"namespace": options.namespace})
        service = service.model_copy(update={"metadata": metadata})
    found = describe(
        service.spec.model,
        config=options.config,
        folder=options.model_dir,
        annotations=service.metadata.annotations,
        offline=options.offline,
    )
    observed = Observed(
        found.spec, found.why_unknown, model_bytes=found.size, service_monitors=options.service_monitors
    )
    return plan(service, observed, Settings())


def _shown(objects: list[Manifest], output: str) -> str:
    if output == "json":
        return printout.as_json({"apiVersion": "v1", "kind": "List", "items": objects})
    return printout.as_yaml(objects)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="octavo render", description="Print the objects that an LLMService becomes.")
    parser.add_argument("-f", "--file", required=True, metavar="FILE", help="manifest; - is standard input")
    parser.add_argument("--name", help="render only the LLMService of this name")
    parser.add_argument("-n", "--namespace", metavar="NAME", help="namespace in place of the manifest's")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--config", type=Path, metavar="FILE", help="config.json or GGUF that describes the model")
    model.add_argument("--model-dir", type=Path, metavar="FOLDER", help="folder that holds the model")
    parser.add_argument("--offline", action="store_true", help="do not ask the hub for a config.json")
    parser.add_argument(
        "--service-monitors", action="store_true", help="the cluster knows ServiceMonitors, so Auto makes one"
    )
    parser.add_argument("-o", "--output", choices=("yaml", "json"), default="yaml", help="form of the objects")
    return parser
