"""The `octavo` command: a table of verb to module; a module is imported only when its verb is used."""

from __future__ import annotations

import sys
from importlib import import_module

from octavo import process

VERBS = {
    "serve": ("octavo_engine.cli.serve", "serve a model over the OpenAI API"),
    "launch": ("octavo_engine.cli.launch", "serve rendering and derendering without an engine"),
    "run-batch": ("octavo_engine.cli.run_batch", "answer the requests of a file"),
    "compile": ("octavo_engine.cli.compile", "compile a model's kernels where there is no GPU"),
    "chat": ("octavo_engine.cli.chat", "talk to a served model in the terminal"),
    "bench": ("octavo_engine.cli.bench", "load a server and report throughput and latency"),
    "up": ("octavo_operator.verbs.up_verb", "run an LLMService manifest as local processes"),
    "plan": ("octavo_operator.verbs.plan_verb", "show what a manifest would create, and why"),
    "render": ("octavo_operator.verbs.render_verb", "print the Kubernetes objects that a manifest becomes"),
}

EXTRAS = {"octavo_engine": "engine", "octavo_operator": "operator"}


def usage() -> str:
    lines = [f"  {verb:<9} {summary}" for verb, (_, summary) in VERBS.items()]
    return "\n".join(["usage: octavo VERB [ARGUMENT ...]", "", *lines, "", "octavo VERB --help lists its flags."])


def main(argv: list[str] | None = None) -> int:
    """Run one verb; each verb's module has `main(argv) -> int` and prints its own errors."""
    args = sys.argv[1:] if argv is None else argv
    return process.run(f"octavo {args[0]}" if args else "octavo", lambda: _main(args))


def _main(args: list[str]) -> int:
    if not args or args[0] in {"-h", "--help", "help"}:
        print(usage())  # noqa: T201
        return 0
    if args[0] in {"-V", "--version"}:
        from importlib.metadata import version  # noqa: PLC0415

        print(f"octavo {version('octavo')}")  # noqa: T201
        return 0
    if args[0] not in VERBS:
        print(f"octavo: no verb {args[0]!r}; octavo --help lists them", file=sys.stderr)  # noqa: T201
        return 2
    module = VERBS[args[0]][0]
    try:
        run = import_module(module).main
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("octavo"):
            raise
        extra = EXTRAS[module.partition(".")[0]]
        print(  # noqa: T201
            f"octavo {args[0]} needs {error.name}, which is not installed: pip install '.[{extra}]' in Octavo's sources",
            file=sys.stderr,
        )
        return 1
    code: int = run(args[1:])
    return code


if __name__ == "__main__":
    sys.exit(main())
