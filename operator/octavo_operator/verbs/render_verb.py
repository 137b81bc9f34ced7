"""`octavo render -f FILE`: the objects that the operator would apply, as YAML for kubectl. Changes nothing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from octavo_operator.api import manifest as manifests
from octavo_operator.children import Manifest, render
from octavo_operator.planner import Plan
from octavo_operator.verbs import planning, printout


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 rendered; 1 refused, with the remedy; 2 the manifest or a file is wrong."""
    options = _parser().parse_args(argv)

    def show(_: manifests.Manifest, plans: list[Plan]) -> None:
        for each in plans:
            if each.refusal is not None:
                why = f"{each.refusal.reason}: {each.refusal.message}; {each.refusal.remedy}"
                print(f"octavo render: {each.name}: {why}", file=sys.stderr)  # noqa: T201
        print(_shown([each for made in plans for each in render(made)], options.output))  # noqa: T201

    return planning.run(
        "octavo render", options, show, namespace=options.namespace, service_monitors=options.service_monitors
    )


def _shown(objects: list[Manifest], output: str) -> str:
    if output == "json":
        return printout.as_json({"apiVersion": "v1", "kind": "List", "items": objects})
    return printout.as_yaml(objects)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="octavo render", description="Print the objects that an LLMService becomes.")
    planning.add_flags(parser)
    parser.add_argument("-n", "--namespace", metavar="NAME", help="namespace in place of the manifest's")
    parser.add_argument(
        "--service-monitors", action="store_true", help="the cluster serves ServiceMonitors, so Auto makes one"
    )
    parser.add_argument("-o", "--output", choices=("yaml", "json"), default="yaml", help="form of the objects")
    return parser
