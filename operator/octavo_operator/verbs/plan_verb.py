"""`octavo plan -f FILE`: what a manifest would create, and why. Reads files; changes nothing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from octavo_operator.api.manifest import Manifest
from octavo_operator.planner import Plan
from octavo_operator.verbs import planning, printout


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 planned; 1 refused, with the remedy; 2 the manifest or a file is wrong."""
    options = _parser().parse_args(argv)

    def show(manifest: Manifest, plans: list[Plan]) -> None:
        if manifest.others and options.output == "text":
            print(f"octavo plan: passed over {', '.join(manifest.others)}", file=sys.stderr)  # noqa: T201
        print(_shown(plans, options.output))  # noqa: T201

    return planning.run("octavo plan", options, show)


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
    planning.add_flags(parser)
    parser.add_argument("-o", "--output", choices=("text", "json", "yaml"), default="text", help="form of the plan")
    return parser
