"""The verb `octavo compile`: compile a model's kernels for GPUs that are not here, and end.

A build step of an image, or a Job: `octavo compile --capability 90 --model …` fills a folder that `octavo serve` then
reads by OCTAVO_KERNELS, so that a pod compiles nothing. Needs the model's description alone (config.json, or a GGUF
file), torch and Triton, and no GPU. Takes the flags of `octavo serve` that change kernels: give both the same.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from octavo_engine.cli.arguments import parse_with_notes
from octavo_engine.config import EngineConfig
from octavo_engine.errors import ConfigError, OctavoError
from octavo_engine.executors import require_torch
from octavo_engine.executors.cores import number_of_threads
from octavo_engine.weights.describe import describe
from octavo_engine.weights.source import resolve
from octavo_models.errors import ModelError
from octavo_models.sharding import FLAG_NAMES, obstacle

CAPABILITIES = (80, 86, 89, 90, 100, 103, 120)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 all is compiled; 1 the model can't be had, or a kernel can't be compiled; 2 usage."""
    options, flags = _parser().parse_known_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        config, _ = parse_with_notes([*flags, "--executor", "torch"])
    except ConfigError as error:
        print(f"octavo compile: {error}", file=sys.stderr)  # noqa: T201
        return 2
    if "TRITON_INTERPRET" in os.environ:
        print("octavo compile: TRITON_INTERPRET is set: kernels are interpreted; unset it", file=sys.stderr)  # noqa: T201
        return 2
    if options.output is not None:
        os.environ["TRITON_CACHE_DIR"] = os.fspath(options.output.absolute())
    try:
        _compile(config, sorted(set(options.capability)), options.workers)
    except (OctavoError, ModelError) as error:
        print(f"octavo compile: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _compile(config: EngineConfig, capabilities: Sequence[int], workers: int | None) -> None:
    require_torch()
    from triton import knobs  # noqa: PLC0415 — after the folder is known

    from octavo_engine.executors.torch.rehearsal import kernels_of_all_ranks  # noqa: PLC0415
    from octavo_engine.kernels.triton.kernel_cache import ProgressLine, prepare  # noqa: PLC0415
    from octavo_engine.kernels.triton.launch import Card, tuned_launcher  # noqa: PLC0415

    spec = describe(config.model, resolve(config.model, lambda *_: None))
    parallel = config.parallel
    hindrance = obstacle(spec, parallel.tensor_parallel_size, parallel.pipeline_parallel_size, names=FLAG_NAMES)
    if hindrance is not None:
        raise ConfigError(hindrance)
    log = logging.getLogger(__name__)
    for capability in capabilities:
        start = time.monotonic()
        # How many SMs a GPU has changes grids alone, not kernels.
        launcher = tuned_launcher(Card(capability, 1), config.executor.kernel_parameters)
        variants = kernels_of_all_ranks(config, spec, launcher)
        line = ProgressLine(capability, log.info)
        prepare(variants, capability, workers or number_of_threads(None), line.report, on_gpu=False)
        log.info(
            "%d kernels of %s for compute capability %.1f are in %s (%.1f s)",
            len(variants),
            config.model.model,
            capability / 10,
            knobs.cache.dir,
            time.monotonic() - start,
        )


def _capability(text: str) -> int:
    """90 or 9.0."""
    number = text.replace(".", "", 1)
    if not number.isdecimal() or int(number) not in CAPABILITIES:
        known = ", ".join(map(str, CAPABILITIES))
        raise argparse.ArgumentTypeError(f"{text!r} is no compute capability that kernels are written for: {known}")
    return int(number)


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="octavo compile",
        description="Compile a model's kernels for GPUs that are not here, and end. Further flags are those of octavo "
        "serve: --model, --dtype, --max-num-seqs, --block-size, --tensor-parallel-size and --kernel-parameters "
        "change kernels, and must be the same for both.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--capability",
        type=_capability,
        action="append",
        required=True,
        metavar="N",
        help="compute capability: 80 for A100, 89 for L4, 90 for H100 and H200, 100 for B200; may be given again",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="where kernels go, for OCTAVO_KERNELS; default: TRITON_CACHE_DIR, the cache of octavo serve itself",
    )
    parser.add_argument("--workers", type=_at_least_one, metavar="N", help="processes; default: one for each core")
    return parser


if __name__ == "__main__":
    from octavo.process import run

    sys.exit(run("octavo compile", main))
