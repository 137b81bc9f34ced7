"""A model with a part that the engine's executors do not run is refused before a pod exists, where that is known."""

from __future__ import annotations

import dataclasses

import pytest
from octavo_testing.planner_cases import CPU, SMALL, described, service

from octavo_models import features
from octavo_operator.api.observed import Observed
from octavo_operator.api.v1alpha1 import IGNORE_FIT
from octavo_operator.planner import plan
from octavo_operator.runtimes import RUNTIMES
from octavo_operator.settings import Settings

GPU = {"products": ["NVIDIA-A100-SXM4-80GB"]}
OWN = Settings(
    images={
        "octavo": "octavo/engine:0.3.0",
        "octavo-cuda": "octavo/engine:0.3.0-cuda",
        "vllm": "v:1",
        "vllm-cpu": "v:1",
    },
    version="0.3.0",
    own_version="0.3.0",
)
PINNED = dataclasses.replace(OWN, images=OWN.images | {"octavo": "octavo/engine:0.2.0"}, version="0.2.0")
NIGHTLY = dataclasses.replace(OWN, images=OWN.images | {"octavo": "octavo/engine:nightly"})
OCTAVO_ALONE = ["--model-impl", "octavo"]
SINKS = "attention sinks (layer 29)"


def others(vendor):
    """The runtimes that have executors of their own there, as a remedy names them."""
    return " or ".join(name for name, each in RUNTIMES.items() if not each.executors and vendor in each.images)


def with_sinks(spec):
    """The model with attention sinks in its last layer."""
    *others, last = spec.layers
    last = dataclasses.replace(last, attention=dataclasses.replace(last.attention, sinks=True))
    return dataclasses.replace(spec, layers=(*others, last))


@pytest.fixture
def planned(monkeypatch):
    """Plans where these executors run attention sinks."""

    def made(executors, accelerator, settings=OWN, *, plain=False, serving=False, annotations=None, uri=None, **engine):
        has = {name: frozenset({"sinks"} if name in executors else ()) for name in ("native", "torch")}
        monkeypatch.setattr(features, "SUPPORTED", has)
        spec = described(SMALL)
        made = service(annotations, model={"uri": uri or "hf://o/n"}, accelerator=accelerator, engine=engine)
        return plan(made, Observed(spec if plain else with_sinks(spec), serving=serving), settings)

    return made


@pytest.mark.parametrize(
    ("executors", "accelerator", "lacking", "remedy"),
    [
        ({"torch"}, CPU, "native", f"set accelerator.vendor: nvidia, or engine.runtime: {others('cpu')}"),
        ({"native"}, GPU, "torch", f"set accelerator.vendor: cpu, or engine.runtime: {others('nvidia')}"),
        (set(), CPU, "native", f"set engine.runtime: {others('cpu')}"),
        (set(), GPU, "torch", f"set engine.runtime: {others('nvidia')}"),
    ],
)
def test_a_part_that_the_executor_lacks_is_named_with_what_runs_it(planned, executors, accelerator, lacking, remedy):
    made = planned(executors, accelerator, args=OCTAVO_ALONE)
    assert (made.fit.state, made.fit.reason, made.children) == ("False", "ModelNotSupported", ())
    message = f"Octavo's engine can't run LlamaForCausalLM: the {lacking} executor does not support {SINKS}"
    assert (made.refusal.reason, made.refusal.message) == ("ModelNotSupported", message)
    assert made.refusal.remedy == remedy


@pytest.mark.parametrize(
    ("executors", "accelerator"), [({"native"}, CPU), ({"torch"}, GPU), ({"native", "torch"}, CPU)]
)
def test_a_part_that_it_has_changes_nothing(planned, executors, accelerator):
    made = planned(executors, accelerator)
    assert made.refusal is None
    assert made.fit == planned(executors, accelerator, plain=True).fit


def test_a_plain_model_is_not_judged(planned):
    assert planned(set(), CPU, plain=True).refusal is None
    assert planned(set(), CPU, PINNED, plain=True).fit.state == "True"


def test_a_source_that_no_other_runtime_reads_leaves_another_model(planned):
    made = planned(set(), CPU, uri="package://p")
    assert made.refusal.remedy == "name another model in model.uri"


def test_several_gpus_are_not_replaced_by_a_cpu(planned):
    made = planned({"native"}, GPU, pipelineParallelSize=3)
    assert made.refusal.remedy == f"set engine.runtime: {others('nvidia')}"


def test_another_runtime_has_executors_of_its_own(planned):
    assert planned(set(), GPU, runtime="vllm").refusal is None


def test_torch_stands_in_on_a_cpu_that_has_it(planned):
    """`octavo up` beside an installed torch: the engine's `--executor auto` takes it then."""
    here = dataclasses.replace(OWN, torch_on_cpu=True)
    assert planned({"torch"}, CPU, here).refusal is None
    message = planned(set(), CPU, here, args=OCTAVO_ALONE).refusal.message
    assert message.endswith(
        f"the native executor does not support {SINKS} and the torch executor does not support {SINKS}"
    )


@pytest.mark.parametrize(
    ("args", "executors", "refused"),
    [
        (["--executor", "torch"], {"torch"}, False),
        (["--executor=torch"], {"native"}, True),
        (["--executor", "torch", "--executor", "native"], {"torch"}, True),
        (["--executor", "auto"], {"native"}, False),
    ],
)
def test_the_executor_that_the_manifest_names_is_the_one_that_counts(planned, args, executors, refused):
    assert (planned(executors, CPU, args=[*args, *OCTAVO_ALONE]).refusal is not None) == refused


@pytest.mark.parametrize(
    ("settings", "image"),
    [
        (PINNED, None),
        (OWN, {"tag": "0.3.0"}),
        (OWN, {"repository": "mine/engine", "tag": "1"}),
        (dataclasses.replace(OWN, own_version="0.4.0"), None),
    ],
)
def test_of_an_image_of_another_version_it_is_not_known(planned, settings, image):
    """Nothing is refused: such an image may run what this version does not, and the other way round."""
    for executors in (set(), {"native"}):
        made = planned(executors, CPU, settings, image=image)
        assert made.refusal is None
        assert (made.fit.state, made.fit.reason) == ("Unknown", "SupportUnknown")
        known = planned(executors, CPU, plain=True).fit
        assert made.fit.message.startswith(f"{known.message}; the model needs {SINKS}, and whether ")
        assert made.fit.message.endswith(" runs that is not known: it is of another version")
        assert made.fit.budget is not None


def test_what_does_not_fit_is_refused_whatever_the_version(planned):
    made = planned(
        {"native"}, GPU, dataclasses.replace(OWN, own_version="0.4.0"), maxModelLen=8192, minConcurrency=10**6
    )
    assert made.refusal.reason == "DoesNotFit"


@pytest.mark.parametrize("image", [None, {"pullPolicy": "Always"}])
def test_an_image_without_a_versions_tag_is_the_operators_own(planned, image):
    assert planned(set(), CPU, NIGHTLY, image=image).refusal is not None


def test_the_annotation_overrides_it_and_what_runs_is_kept(planned):
    """The table may be wrong about an engine that answers, as with memory."""
    assert planned(set(), CPU, annotations={IGNORE_FIT: "true"}).fit.reason == "OverriddenByAnnotation"
    kept = planned(set(), CPU, serving=True)
    assert (kept.refusal, kept.fit.reason) == (None, "AlreadyServing")


UNDESCRIBED = "architecture 'NewForCausalLM' is not supported"


def undescribed(accelerator, settings=OWN, *, model=None, **engine):
    """The plan of a model that octavo_models does not describe, or of `model`."""
    made = service(accelerator=accelerator, engine=engine)
    observed = Observed(why_unknown=UNDESCRIBED, undescribed=UNDESCRIBED) if model is None else Observed(model)
    return plan(made, observed, settings)


@pytest.mark.parametrize("args", [[], ["--model-impl", "auto"], ["--model-impl=transformers"]])
def test_a_model_that_is_not_described_is_left_to_transformers_on_a_gpu(args):
    """Nothing is blocked, for its start shows if it runs so."""
    made = undescribed(GPU, args=args)
    assert made.refusal is None
    assert (made.fit.state, made.fit.reason) == ("Unknown", "SupportUnknown")
    assert made.fit.message == (
        f"{UNDESCRIBED}; transformers computes it, more slowly, if its layers run over KV blocks, which its start shows"
    )


@pytest.mark.parametrize(
    ("accelerator", "engine", "why", "remedy"),
    [
        (
            CPU,
            {},
            f"{UNDESCRIBED}, and transformers, which may compute it, needs the torch executor",
            f"set accelerator.vendor: nvidia, or engine.runtime: {others('cpu')}",
        ),
        (
            GPU,
            {"pipelineParallelSize": 2},
            f"{UNDESCRIBED}, and transformers, which may compute it, has one stage",
            f"set engine.pipelineParallelSize: 1, or engine.runtime: {others('nvidia')}",
        ),
        (GPU, {"args": ["--model-impl", "octavo"]}, UNDESCRIBED, f"set engine.runtime: {others('nvidia')}"),
        (GPU, {"args": ["--model-impl", "vllm"]}, UNDESCRIBED, f"set engine.runtime: {others('nvidia')}"),
    ],
)
def test_what_transformers_does_not_run_on_is_refused_by_name(accelerator, engine, why, remedy):
    refusal = undescribed(accelerator, **engine).refusal
    assert (refusal.reason, refusal.message) == ("ModelNotSupported", f"Octavo's engine can't run the model: {why}")
    assert refusal.remedy == remedy


def test_a_described_model_that_is_left_to_transformers_has_its_memory_known():
    args = ["--model-impl", "transformers"]
    made, plain = (undescribed(GPU, model=described(SMALL), args=each) for each in (args, []))
    assert (made.refusal, made.fit.reason, made.fit.budget) == (None, "SupportUnknown", plain.fit.budget)
    assert made.fit.message.startswith(f"{plain.fit.message}; it is left to transformers; transformers computes it")
    refused = undescribed(CPU, model=described(SMALL), args=args).refusal
    assert refused.remedy == f"set accelerator.vendor: nvidia, or engine.runtime: {others('cpu')}"


@pytest.mark.parametrize("accelerator", [CPU, GPU])
def test_an_image_of_another_version_may_describe_more(accelerator):
    made = undescribed(accelerator, dataclasses.replace(OWN, own_version="0.4.0"))
    assert (made.refusal, made.fit.reason) == (None, "ModelUnknown")


def test_a_part_that_only_transformers_computes_is_not_refused(planned):
    """The torch executor lacks it, and the engine's `auto` takes transformers then."""
    made = planned(set(), GPU)
    assert (made.refusal, made.fit.reason) == (None, "SupportUnknown")
