"""`octavo plan -f FILE`: what a manifest would create, and why. Reads files; changes nothing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from octavo_operator.api.manifest import read_manifest
from octavo_operator.api.observed import Observed
from octavo_operator.api.v1alpha1 import LLMService
from octavo_operator.description.sources import describe
from octavo_operator.errors import ManifestError, ModelUnknownError
from octavo_operator.planner import Plan, plan
from octavo_operator.settings import Settings
from octavo_operator.verbs import printout


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 planned; 1 refused, with the remedy; 2 the manifest or a file is wrong."""
    options = _parser().parse_args(argv)
    try:
        manifest = read_manifest(options.file)
        services = manifest.services if options.name is None else (manifest.service(options.name),)
        plans = [_plan(service, options) for service in services]
    except (ManifestError, ModelUnknownError) as error:
        print(f"octavo plan: {error}", file=sys.stderr)  # noqa: T201
        return 2
    if manifest.others and options.output == "text":
        print(f"octavo plan: passed over {', '.join(manifest.others)}", file=sys.stderr)  # noqa: T201
    print(_shown(plans, options.output))  # noqa: T201
    return 1 if any(each.refusal for each in plans) else 0


def _plan(service: LLMService, options: argparse.Namespace) -> Plan:
    found = describe(
        service.spec.model,
        config=options.config,
        folder=options.model_dir,
        annotations=service.metadata.annotations,
        offline=options.offline,
    )
    return plan(service, Observed(found.spec, found.why_unknown, model_bytes=found.size), Settings())


def _shown(plans: list[Plan], output: str) -> str:
    if output == "text":
        if len(plans) == 1:
            return printout.text(plans[0])
        return "\n\n".join(f"{each.namespace}/{each.name}\n{printout.text(each)}" for each in plans)
    documents = [printout.document(each) for each in plans]
    if output == "json":
        return printout.as_json(documents[0] if len(documents) == 1 else documents)
    return printout.as_yaml(documents)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="octavo plan", description="Show what an LLMService would create, and why.")
    parser.add_argument("-f", "--file", required=True, metavar="FILE", help="manifest; - is standard input")
    parser.add_argument("--name", help="plan only the LLMService of this name")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--config", type=Path, metavar="FILE", help="config.json or GGUF that describes the model")
    model.add_argument("--model-dir", type=Path, metavar="FOLDER", help="folder that holds the model")
    parser.add_argument("--offline", action="store_true", help="do not ask the hub for a config.json")
    parser.add_argument("-o", "--output", choices=("text", "json", "yaml"), default="text", help="form of the plan")
    return parser
