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
from octavo_engine.executors.torch.kernel_lists import complete, name_of, read_list
from octavo_engine.kernels.folders import kernel_cache_folder
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve
from octavo_models.errors import ModelError
from octavo_models.partition import Place
from octavo_models.sharding import FLAG_NAMES, obstacle
from octavo_models.spec import ModelSpec

logger = logging.getLogger(__name__)

CAPABILITIES = (80, 86, 89, 90, 100, 103, 120)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 all is compiled; 1 the model can't be had, or a kernel can't be compiled; 2 usage."""
    options, flags = _parser().parse_known_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        config, _ = parse_with_notes([*flags, "--executor", "torch", "--device", "cuda"])  # with a GPU's defaults
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
    spec = read_spec(config.model, resolve(config.model, lambda *_: None))
    parallel = config.parallel
    sizes = parallel.tensor_parallel_size, parallel.pipeline_parallel_size
    hindrance = obstacle(spec, *sizes, names=FLAG_NAMES, whole_experts=parallel.enable_expert_parallel)
    if hindrance is not None:
        raise ConfigError(hindrance)
    places = [parallel.place(rank) for rank in range(parallel.world_size)]
    for capability in capabilities:
        start = time.monotonic()
        number = _number_there(config, spec, capability, places)
        if number is None:
            from octavo_engine.executors.torch.warm_up import compile_kernels  # noqa: PLC0415 — seconds of imports

            number = compile_kernels(config, spec, capability, places, workers or number_of_threads(None))
        logger.info(
            "%d kernels of %s for compute capability %.1f are in %s (%.1f s)",
            number,
            config.model.model,
            capability / 10,
            kernel_cache_folder(),
            time.monotonic() - start,
        )


def _number_there(config: EngineConfig, spec: ModelSpec, capability: int, places: Sequence[Place]) -> int | None:
    """The number of kernels that these ranks need, if all are compiled already; else None."""
    found: set[str] = set()
    for place in places:
        try:
            kernels = read_list(name_of(config, spec, place, capability))
        except OSError:  # the file of launch parameters: compiling says what is wrong with it
            return None
        if kernels is None or not complete(kernels):
            return None
        found |= {kernel.entry for kernel in kernels}
    return len(found)


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
