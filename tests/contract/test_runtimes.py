"""Every field of the CRD's engine section, for every runtime: its own parser takes what is rendered, or the plan refuses."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, get_args, get_origin

import pytest
from octavo_testing import vllm_flags
from octavo_testing.planner_cases import CPU, SMALL, described, service

from octavo_engine.cli.arguments import parse_with_notes
from octavo_operator.api.engine import Engine
from octavo_operator.api.flags import canonical
from octavo_operator.api.observed import Observed
from octavo_operator.errors import ManifestError
from octavo_operator.planner import Plan, plan
from octavo_operator.runtimes import ENTRIES, IMAGE_KEYS, OCTAVO, RUNTIMES
from octavo_operator.runtimes.runtime import Unsupported
from octavo_operator.settings import Settings

SETTINGS = Settings(images=dict.fromkeys(IMAGE_KEYS, "image:1") | Settings().images)
VALUES: dict[str, list[Any]] = {
    "image": [{"repository": "registry.example/engine", "tag": "1"}],
    "tensorParallelSize": [3],
    "pipelineParallelSize": [2],
    "maxModelLen": [2048],
    "maxNumSeqs": [7],
    "maxNumBatchedTokens": [512],
    "minConcurrency": [2],
    "gpuMemoryUtilization": [0.8],
    "swapSpace": ["2Gi"],
    "enforceEager": [True],
    "prefixCaching": [False],
    "quantization": ["awq", "fp8", "gguf", "gptq"],
    "args": [["--seed", "3"]],
    "env": [[{"name": "A", "value": "b"}]],
}
"""Values of the fields whose types do not list them; none is a default."""
OF_THE_PLAN = {"runtime", "image", "minConcurrency", "env"}  # no argument stands for them
OF_GPUS = {"tensorParallelSize", "pipelineParallelSize", "gpuMemoryUtilization", "swapSpace"}
REPLACEABLE = {"--executor", "--device", "--kv-cache-memory-bytes"}
"""Rendered, and free for `engine.args`, whose value comes later and wins."""


def aliases() -> dict[str, str]:
    return {name: field.alias or name for name, field in Engine.model_fields.items()}


def values_of(name: str) -> list[Any]:
    field = Engine.model_fields[name]
    if get_origin(field.annotation) is Literal:
        return [value for value in get_args(field.annotation) if value != field.default]
    return VALUES[field.alias or name]


def cases() -> Iterator[Any]:
    for runtime, entry in RUNTIMES.items():
        for vendor in entry.images:
            for name, alias in aliases().items():
                for value in values_of(name) if alias != "runtime" else ():
                    yield pytest.param(runtime, vendor, alias, value, id=f"{runtime}-{vendor}-{alias}-{value}")


def planned(runtime: str, vendor: str, model: dict[str, Any] | None = SMALL, **engine: Any) -> Plan:
    accelerator = CPU if vendor == "cpu" else {"products": ["NVIDIA-A100-SXM4-80GB"]}
    made = service(model={"uri": "pvc://models/m"}, accelerator=accelerator, engine={"runtime": runtime} | engine)
    return plan(made, Observed(None if model is None else described(model)), SETTINGS)


def taken(runtime: str, words: list[str]) -> object:
    """The runtime's own parser; a flag that it takes and that has no effect counts as one that it does not take."""
    if runtime == "vllm":
        return vllm_flags.parse(words)
    config, notes = parse_with_notes(words)
    assert notes == []
    return config


def test_the_registry_and_the_crds_enum_name_the_same_runtimes():
    (values,) = [get_args(Engine.model_fields["runtime"].annotation)]
    assert sorted(each.name for each in ENTRIES) == sorted(values)


@pytest.mark.parametrize("runtime", [each.name for each in ENTRIES if isinstance(each, Unsupported)])
def test_a_runtime_that_is_not_run_is_refused(runtime):
    refusal = planned(runtime, "nvidia").refusal
    assert (refusal.reason, refusal.remedy) == ("RuntimeNotSupported", f"set engine.runtime: {' or '.join(RUNTIMES)}")


def test_a_runtime_without_an_image_for_cpus_is_refused_there(monkeypatch):
    """The remedy names those that have one, and its field is no image: there is none to name."""
    monkeypatch.setitem(RUNTIMES, "vllm", replace(RUNTIMES["vllm"], images={"nvidia": "vllm"}))
    refusal = planned("vllm", "cpu").refusal
    assert (refusal.reason, refusal.message) == ("RuntimeNotSupported", "engine.runtime vllm does not run on CPUs")
    assert refusal.remedy == "set engine.runtime: octavo"
    assert planned("vllm", "nvidia").refusal is None


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_runtime_takes_or_checks_every_field(runtime):
    entry = RUNTIMES[runtime]
    assert entry.takes | entry.checks.keys() | {"args"} == aliases().keys()
    assert not entry.takes & entry.checks.keys()


@pytest.mark.parametrize(("runtime", "vendor", "field", "value"), list(cases()))
def test_a_field_reaches_the_runtimes_parser_or_is_refused(runtime, vendor, field, value):
    """What is neither refused nor rendered would be ignored; what is rendered and not taken would crash-loop."""
    if vendor == "cpu" and field in {"tensorParallelSize", "pipelineParallelSize"}:
        with pytest.raises(ManifestError, match=field):
            planned(runtime, vendor, **{field: value})
        return
    made = planned(runtime, vendor, **{field: value})
    if made.refusal is not None:
        assert made.refusal.reason.endswith("NotSupported")
        assert f"engine.{field}" in made.refusal.message
        assert made.refusal.remedy
        return
    line, without = (list(each.engine.line(None, 8000)) for each in (made, planned(runtime, vendor)))
    taken(runtime, line)
    its_own = field == "kvCacheDtype" and runtime == "octavo" and value == "bfloat16"
    unrendered = OF_THE_PLAN | (OF_GPUS if vendor == "cpu" else set())
    assert (line != without) == (field not in unrendered and not its_own)


@pytest.mark.parametrize("vendor", ["nvidia", "cpu"])
@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("kvCacheDtype", "fp8", "KvCacheDtypeNotSupported"),
        ("quantization", "awq", "QuantizationNotSupported"),
    ],
)
def test_octavo_refuses_what_its_engine_would_exit_on(vendor, field, value, reason):
    assert planned("octavo", vendor, **{field: value}).refusal.reason == reason


@pytest.mark.parametrize(
    ("stored", "vendor", "own"),
    [
        ("float32", "nvidia", "bfloat16"),
        ("float32", "cpu", "float32"),
        ("float16", "nvidia", "float16"),
        ("float16", "cpu", "bfloat16"),
        ("bfloat16", "nvidia", "bfloat16"),
    ],
)
def test_octavos_kv_cache_has_the_type_that_the_model_runs_in(stored, vendor, own):
    """GPUs are not made for float32, and its native executor keeps no float16."""
    for dtype in ("float32", "float16", "bfloat16"):
        refusal = planned("octavo", vendor, SMALL | {"torch_dtype": stored}, kvCacheDtype=dtype).refusal
        assert (refusal and refusal.reason) == (None if dtype == own else "KvCacheDtypeNotSupported")


def test_vllm_is_not_given_a_package():
    """vLLM has no loader for one: the pod would crash-loop."""
    made = plan(service(model={"uri": "package://p"}, engine={"runtime": "vllm"}), Observed(), SETTINGS)
    assert made.refusal.message == "engine.runtime vllm cannot load package://"
    assert made.refusal.remedy == "use one of hf://, pvc://, file://, or set engine.runtime: octavo"


@pytest.mark.parametrize(("runtime", "vendor"), [(name, each) for name in RUNTIMES for each in RUNTIMES[name].images])
def test_every_rendered_flag_is_reserved(runtime, vendor):
    """`engine.args` repeats no flag that a field stands for."""
    engine = {"dtype": "bfloat16", "maxModelLen": 2048, "enforceEager": True, "prefixCaching": False}
    line = planned(runtime, vendor, **engine).engine.line(None, 8000)
    flags = {canonical(word) for word in line if word.startswith("--")}
    assert flags - REPLACEABLE <= RUNTIMES[runtime].reserved.keys()


def test_a_runtimes_own_reserved_flag_is_refused():
    """Beyond those that the API server refuses for every runtime."""
    entry = replace(OCTAVO, reserved={"--ctx-size": "spec.engine.maxModelLen"})
    engine = service(engine={"args": ["--seed", "1", "--ctx_size=9"]}).spec.engine
    refusal = entry.refusal(engine, None, on_gpu=False)
    assert (refusal.reason, refusal.message) == (
        "ArgumentReserved",
        "engine.args[2]: --ctx-size repeats spec.engine.maxModelLen",
    )


def test_vllms_removed_flags_are_errors_in_the_table():
    with pytest.raises(ValueError, match="swap-space"):
        vllm_flags.parse(["--model", "m", "--swap-space", "4"])
    assert isinstance(vllm_flags.parse(["--model", "m"]), argparse.Namespace)
