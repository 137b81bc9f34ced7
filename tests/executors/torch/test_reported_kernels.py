"""`make kernels-report` compiles exactly what engines of its models launch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from octavo_engine.cli.arguments import parse_with_notes
from octavo_engine.executors.torch import reported_kernels as reported
from octavo_engine.executors.torch.rehearsal import kernels_of
from octavo_engine.kernels.triton.launch import Gpu, Launcher

BASELINE = Path(__file__).parents[2] / "kernels/compiled.json"
GPUS = [pytest.param(Gpu(80, 108), id="sm_80", marks=pytest.mark.slow), pytest.param(Gpu(90, 132), id="sm_90")]


@pytest.fixture(scope="module", params=GPUS)
def gpu(request):
    return request.param


@pytest.fixture(scope="module")
def kernels(gpu):
    return list(reported.reported_kernels(gpu))


@pytest.mark.slow
def test_every_variant_is_there_once_under_a_name_of_its_own(kernels):
    assert len({kernel.variant for kernel in kernels}) == len({kernel.name for kernel in kernels}) == len(kernels)
    assert all(kernel.programs > 0 for kernel in kernels)


@pytest.mark.sample(model=["llama"])
@pytest.mark.sample(model=["q4_k"], flags=[[]])
@pytest.mark.parametrize("flags", [[], ["--max-num-seqs", "200"]], ids=" ".join)
@pytest.mark.parametrize(
    "model", ["llama", "gemma", "smollm2", "q4_k", "qwen3-moe-q4_k", "gpt-oss", "bloom", "bge", "deepseek-v2"]
)
def test_what_an_engine_may_launch_is_in_the_report(kernels, gpu, model, flags):
    """The key is the one that launches look their code up with."""
    config, _ = parse_with_notes(["--model", "x", "--load-format", "dummy", "--device", "cuda", *flags])
    launched = kernels_of(config, reported.reported_models()[model], Launcher(gpu))
    missing = set(launched) - {kernel.variant for kernel in kernels}
    assert not missing, [str(variant) for variant in missing]


def test_the_report_is_of_an_engine_without_flags_on_a_gpu():
    config, _ = parse_with_notes(["--model", "x", "--device", "cuda"])
    assert reported.report_config().scheduler == config.scheduler


def test_the_baseline_has_a_limit_for_each_kernel_of_the_report_and_for_no_other(kernels, gpu):
    """Where a kernel is missing, or is not launched any more: `make kernels-baseline`."""
    document = json.loads(BASELINE.read_text("utf-8"))
    prefix = f"sm_{gpu.capability} "
    limits = {name.removeprefix(prefix) for name in document["kernels"] if name.startswith(prefix)}
    assert limits == {kernel.name for kernel in kernels}


@pytest.mark.slow
def test_what_no_engine_launches_is_float8_alone(kernels, gpu):
    launched = set()
    for _, config, spec in reported.reported_engines():
        launched.update(kernels_of(config, spec, Launcher(gpu)))
    beyond = {kernel.name.split()[1] for kernel in kernels if kernel.variant not in launched}
    assert beyond == ({"f8"} if gpu.capability >= 89 else set())


def test_variants_of_one_kernel_are_named_by_what_differs(kernels):
    names = {kernel.name for kernel in kernels}
    assert {"decode llama REQUESTS=16", "decode llama REQUESTS=256"} <= names
    assert "prefill llama" in names
